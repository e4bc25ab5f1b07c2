#pragma once
// The online softmax (Milakov & Gimelshein 2018) of the rows a thread holds parts of: a running
// maximum and sum for each row, and the factor by which earlier sums shrink when the maximum grows.

#include "cuda/attention_scores.h"
#include "cuda/warp.h"

namespace fusedlm::FUSEDLM_DEVICE {

/// kLanes neighbouring lanes share a row.
template <int kLanes, int K>
__device__ __forceinline__ void max_over_lanes(float (&x)[K]) {
#pragma unroll
  for (int by = kLanes / 2; by > 0; by /= 2) {
#pragma unroll
    for (int i = 0; i < K; ++i) x[i] = fmaxf(x[i], __shfl_xor_sync(kAllLanes, x[i], by));
  }
}
template <int kLanes, int K>
__device__ __forceinline__ void sum_over_lanes(float (&x)[K]) {
#pragma unroll
  for (int by = kLanes / 2; by > 0; by /= 2) {
#pragma unroll
    for (int i = 0; i < K; ++i) x[i] += __shfl_xor_sync(kAllLanes, x[i], by);
  }
}

template <int kRows, int kRowLanes>
struct OnlineSoftmax {
  float maximum[kRows], sum[kRows];  // sum: of this thread's columns, until `finish`

  __device__ __forceinline__ OnlineSoftmax() {
#pragma unroll
    for (int i = 0; i < kRows; ++i) maximum[i] = -kInfinity, sum[i] = 0.0f;
  }

  /// Scores, `scale` still to be multiplied -> weights. `factor` is for what was summed before;
  /// false where it is 1 in the whole warp, as in most tiles.
  template <class Sums>
  __device__ __forceinline__ bool add(Sums& x, float scale, float (&factor)[kRows]) {
    float top[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      top[i] = x.at(i, 0);
#pragma unroll
      for (int j = 1; j < Sums::kColumns; ++j) top[i] = fmaxf(top[i], x.at(i, j));
    }
    max_over_lanes<kRowLanes>(top);
    bool grew = false;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float before = maximum[i];
      maximum[i] = fmaxf(before, top[i] * scale);
      grew |= maximum[i] != before;
      // A row that has seen no key keeps -inf, and its weights 2^-inf.
      const float shift = maximum[i] == -kInfinity ? 0.0f : maximum[i];
      factor[i] = fast_exp2(before - shift);
      float total = 0.0f;
#pragma unroll
      for (int j = 0; j < Sums::kColumns; ++j) {
        x.at(i, j) = fast_exp2(fmaf(x.at(i, j), scale, -shift));
        total += x.at(i, j);
      }
      sum[i] = fmaf(sum[i], factor[i], total);
    }
    return __any_sync(kAllLanes, grew);
  }

  __device__ __forceinline__ void finish() { sum_over_lanes<kRowLanes>(sum); }

  /// What sums of weights times values are multiplied by in the end; 0 where no key was seen.
  __device__ __forceinline__ float inverse(int i) const {
    return sum[i] == 0.0f ? 0.0f : 1.0f / sum[i];
  }
  __device__ __forceinline__ float log_sum_exp(int i) const {
    return log_sum_exp_of(maximum[i], sum[i]);
  }
  __device__ __forceinline__ static float log_sum_exp_of(float maximum, float sum) {
    return sum == 0.0f ? kInfinity : fmaf(maximum, kLn2, logf(sum));
  }
};

}  // namespace fusedlm::FUSEDLM_DEVICE
