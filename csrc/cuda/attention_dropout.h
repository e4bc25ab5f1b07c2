#pragma once
// Which weights dropout keeps: Philox4x32-10 (Salmon et al. 2011) counted by batch, head, query and
// key, as on the CPU, so that both drop the same ones and the backward redraws them. One call gives
// four neighbouring keys of a query; lanes that hold parts of the four share it.

#include "cuda/attention_fragments.h"
#include "cuda/attention_scores.h"

namespace fusedlm::FUSEDLM_DEVICE {

/// Bit i: whether key 4 group + i is kept.
__device__ __forceinline__ unsigned kept_of_four(const ScoreRules& rules, int head, int t,
                                                 int group) {
  const Problem& p = rules.p;
  unsigned c0 = group, c1 = rules.s.q0 + t, c2 = rules.s.b * p.H + head, c3 = 0;
  unsigned k0 = static_cast<unsigned>(p.seed), k1 = static_cast<unsigned>(p.seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
    const unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
    c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return (c0 >= p.drop_below ? 1u : 0u) | (c1 >= p.drop_below ? 2u : 0u) |
         (c2 >= p.drop_below ? 4u : 0u) | (c3 >= p.drop_below ? 8u : 0u);
}

/// A bit for each element a thread holds; all are kept at first.
template <int kRows, int kColumns>
struct Kept {
  unsigned words[ceil_of(kRows * kColumns, 32)];

  __device__ __forceinline__ Kept() {
    for (unsigned& word : words) word = ~0u;
  }
  __device__ __forceinline__ bool at(int i, int j) const {
    return words[(i * kColumns + j) / 32] >> (i * kColumns + j) % 32 & 1;
  }
  __device__ __forceinline__ void put(int i, int j, unsigned bit) {
    if (!bit) words[(i * kColumns + j) / 32] &= ~(1u << (i * kColumns + j) % 32);
  }
  template <class Sums>
  __device__ __forceinline__ void drop_from(Sums& weights) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        if (!at(i, j)) weights.at(i, j) = 0.0f;
      }
    }
  }
};

template <class Sums>
using KeptOf = Kept<Sums::kRows, Sums::kColumns>;

/// Rows are queries, `query_of(i)`; columns are keys from j0 on. Lanes 2n and 2n + 1 hold halves of
/// the same four keys in the same two rows: each draws one row and hands half of it over.
template <class Sums, class QueryOf>
__device__ __forceinline__ void draw(const ScoreRules& rules, KeptOf<Sums>& kept, QueryOf query_of,
                                     int j0) {
  const int lane = lane_id(), odd = lane % 2;
#pragma unroll
  for (int m = 0; m < Sums::kAtoms; ++m) {
    const Query first = query_of(2 * m), second = query_of(2 * m + 1);
    const int head = odd ? second.head : first.head, t = odd ? second.t : first.t;
#pragma unroll
    for (int n = 0; n < Sums::kBlocks; ++n) {
      const unsigned own = kept_of_four(rules, head, t, (j0 + 8 * n) / 4 + lane % 4 / 2);
      const unsigned other = __shfl_xor_sync(kAllLanes, own, 1);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const unsigned four = r == odd ? own : other, two = odd ? four >> 2 : four;
        kept.put(2 * m + r, 2 * n, two & 1);
        kept.put(2 * m + r, 2 * n + 1, two & 2);
      }
    }
  }
}

/// Rows are keys from j0 on, columns are queries of one head from t0 on. Four lanes, four rows apart
/// by one, hold the four keys of two queries, twice: each draws one of the four.
template <class Sums>
__device__ __forceinline__ void draw_transposed(const ScoreRules& rules, KeptOf<Sums>& kept,
                                                int head, int t0, int j0) {
  const int lane = lane_id(), part = lane / 4 % 4;
#pragma unroll
  for (int m = 0; m < Sums::kAtoms; ++m) {
#pragma unroll
    for (int n = 0; n < Sums::kBlocks; ++n) {
      const int j = j0 + 16 * m + part / 2 * 8 + lane / 16 * 4;
      const unsigned own = kept_of_four(rules, head, t0 + 8 * n + lane % 4 * 2 + part % 2, j / 4);
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const unsigned four = __shfl_sync(kAllLanes, own, (lane & ~12) | q << 2);
        kept.put(2 * m + q / 2, 2 * n + q % 2, four >> part & 1);
      }
    }
  }
}

}  // namespace fusedlm::FUSEDLM_DEVICE
