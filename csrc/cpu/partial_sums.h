#pragma once
// Sums over a row: fast, since several additions are under way at once, and right for long rows.

#include "cpu/vec.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

/// A sum in parts that are added to by turns, since an addition waits for the one before it.
struct PartialSums {
  static constexpr int kParts = 4;
  Vec part[kParts];

  /// The sum, which is 0 from then on.
  FUSEDLM_VEC Vec take() {
    const Vec sum = (part[0] + part[1]) + (part[2] + part[3]);
    for (Vec& each : part) each = Vec();
    return sum;
  }
};

/// fn(c, part) for each whole vector of [0, count), by turns for each part of a PartialSums, and
/// fn(c, 0, n) for the n elements left.
template <class Fn>
FUSEDLM_VEC void for_each_part(index_t count, Fn&& fn) {
  constexpr index_t kTurn = PartialSums::kParts * Vec::size;
  index_t c = 0;
  for (; c + kTurn <= count; c += kTurn) {
#pragma GCC unroll 4
    for (int part = 0; part < PartialSums::kParts; ++part) fn(c + part * Vec::size, part);
  }
  const auto rest = [&](index_t i, auto... n) { fn(c + i, 0, n...); };
  for_each_vec(count - c, rest, rest);
}

/// fn(c, part) or fn(c, 0, n) over [0, count) as for_each_part, and `end()` behind each piece of it: float32
/// sums of long rows are sums of the sums of pieces, or small terms would be lost beside a large sum.
template <class Fn, class End>
FUSEDLM_VEC void for_each_piece(index_t count, Fn&& fn, End&& end) {
  // So many additions to a lane; most rows are one piece.
  constexpr index_t kPiece = 256 * PartialSums::kParts * Vec::size;
  for (index_t first = 0; first < count; first += kPiece) {
    for_each_part(min_of(kPiece, count - first),
                  [&](index_t c, int part, auto... n) { fn(first + c, part, n...); });
    end();
  }
}

/// Sum of term(c) or term(c, n) over [0, count).
template <class Term>
FUSEDLM_VEC float sum_of(index_t count, Term&& term) {
  Vec total;
  PartialSums sums;
  for_each_piece(
      count, [&](index_t c, int i, auto... n) { sums.part[i] = sums.part[i] + term(c, n...); },
      [&] { total = total + sums.take(); });
  return reduce_sum(total);
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
