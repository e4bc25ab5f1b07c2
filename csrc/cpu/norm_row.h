#pragma once
// A row on its way through layer norm, or through group norm: its moments, y, and the backward.

#include "cpu/around.h"
#include "cpu/partial_sums.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

/// The first n lanes; what was computed behind the end of a row becomes 0 again.
FUSEDLM_VEC Vec inside(Vec v) { return v; }
FUSEDLM_VEC Vec inside(Vec v, index_t n) {
  float lanes[Vec::size];
  v.store(lanes);
  return Vec::load(lanes, n);
}

struct Moments {
  float mean, rstd;
};

/// Of d = x * scale - centre: the mean, and the variance.
struct Centred {
  float mean, variance;
};
template <class T>
FUSEDLM_VEC Centred centred(const T* x, index_t C, float scale, float centre) {
  Vec squares, rest;
  PartialSums sums_of_squares, sums;
  for_each_piece(
      C,
      [&](index_t c, int i, auto... n) {
        const Vec d = inside(Vec::load(x + c, n...) * Vec(scale) - Vec(centre), n...);
        sums_of_squares.part[i] = fma(d, d, sums_of_squares.part[i]);
        sums.part[i] = sums.part[i] + d;
      },
      [&] { squares = squares + sums_of_squares.take(), rest = rest + sums.take(); });
  const float mean = reduce_sum(rest) / static_cast<float>(C);
  return {mean, reduce_sum(squares) / static_cast<float>(C) - mean * mean};
}

/// The moments of rows for which a first pass about the rough mean is not enough: nearly equal values,
/// where the rough mean is further off than they are apart; and values whose squares or sum are
/// beyond float32, which are scaled down. Rare, so out of line.
template <class T>
[[gnu::noinline]] Moments careful_moments(const T* x, index_t C, bool overflows, float eps) {
  // Squares of 1e38 * 2^-96 can be added up, and so can those of the last bit of what overflowed.
  const float scale = overflows ? 0x1p-96f : 1.0f;
  float centre = centred(x, C, scale, 0.0f).mean;
  centre += centred(x, C, scale, centre).mean;
  const Centred last = centred(x, C, scale, centre);
  const float mean = (centre + last.mean) / scale;
  const float variance = last.variance < 0.0f ? 0.0f : last.variance;  // by rounding; NaN stays
  // Of values this large, eps is nothing beside a variance that is not 0.
  if (overflows && variance != 0.0f) return {mean, scale / __builtin_sqrtf(variance)};
  return {mean, 1.0f / __builtin_sqrtf(variance + eps)};
}

/// Centring first keeps the variance accurate where the mean is large. A float32 sum of large values
/// misses their mean by a little; the centred pass finds by how much.
template <class T>
FUSEDLM_VEC Moments moments_of(const T* x, index_t C, float sum, float eps) {
  constexpr float kLargest = 0x1.fffffep127f;
  const float rough = sum / static_cast<float>(C);
  const Centred d = centred(x, C, 1.0f, rough);
  const bool overflows = !(d.variance <= kLargest);  // NaN is infinity less infinity
  if (overflows || !(d.mean * d.mean <= d.variance)) {
    return careful_moments(x, C, overflows, eps);
  }
  return {rough + d.mean, 1.0f / __builtin_sqrtf(d.variance + eps)};
}

/// y = (x - mean) * rstd * weight + bias, without weight or bias where they are null; what was read of
/// x is written to `copy` as well, unless that is null.
template <class T, class W>
FUSEDLM_VEC void scale_row(const T* x, index_t C, Moments m, const W* weight, const W* bias, T* y,
                           T* copy, bool around) {
  const auto scale = [&](index_t c, auto... n) {
    const Vec v = Vec::load(x + c, n...), xhat = (v - Vec(m.mean)) * Vec(m.rstd);
    const Vec shift = bias ? Vec::load(bias + c, n...) : Vec();
    if (copy) store(v, copy + c, around, n...);
    store(fma(xhat, weight ? Vec::load(weight + c, n...) : Vec(1.0f), shift), y + c, around, n...);
  };
  for_each_vec(C, scale, scale);
}

/// dx (+ dsum, unless that is null) of a row with a parameter for each element; the gradients of these
/// are added to dweight and dbias.
template <class T, class W>
FUSEDLM_VEC void backward_of_row(const T* dy, const T* x, index_t C, Moments m, const W* weight,
                                 const T* dsum, T* dx, bool around, float* dweight, float* dbias) {
  const Vec mean(m.mean), rstd(m.rstd);
  const auto load_weight = [&](index_t c, auto... n) {
    return weight ? Vec::load(weight + c, n...) : Vec(1.0f);
  };
  PartialSums sums_g, sums_gx;
  for_each_part(C, [&](index_t c, int i, auto... n) {
    // Behind the end mean * rstd can be infinite, and 0 times that is not 0.
    const Vec xhat = inside((Vec::load(x + c, n...) - mean) * rstd, n...);
    const Vec d = Vec::load(dy + c, n...), g = d * load_weight(c, n...);  // 0 behind the end
    sums_g.part[i] = sums_g.part[i] + g;
    sums_gx.part[i] = fma(g, xhat, sums_gx.part[i]);
    fma(d, xhat, Vec::load(dweight + c, n...)).store(dweight + c, n...);
    (d + Vec::load(dbias + c, n...)).store(dbias + c, n...);
  });
  const Vec mean_g(reduce_sum(sums_g.take()) / static_cast<float>(C));
  const Vec mean_gx(reduce_sum(sums_gx.take()) / static_cast<float>(C));
  const auto write = [&](index_t c, auto... n) {
    const Vec xhat = (Vec::load(x + c, n...) - mean) * rstd;
    const Vec g = Vec::load(dy + c, n...) * load_weight(c, n...);
    Vec d = (g - mean_g - xhat * mean_gx) * rstd;
    if (dsum) d = d + Vec::load(dsum + c, n...);
    store(d, dx + c, around, n...);
  };
  for_each_vec(C, write, write);
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
