#pragma once
// Mean and 1 / standard deviation of rows, as layer norm and group norm take them.

#include "cuda/rows.h"

namespace fusedlm::FUSEDLM_DEVICE {

struct Moments {
  float mean, rstd;
};

/// Of the row `x` of C elements, which a team has in `v` where its plan keeps rows; `sum` is theirs in
/// float32. The row is centred by a first mean before its squares are summed; the centred pass also
/// finds what float32 missed of the mean.
template <class Plan, class T>
__device__ __forceinline__ Moments moments_of(const T* x, float (&v)[Plan::kPacks][Plan::V], int C,
                                              float sum, float eps) {
  constexpr float kLargest = 0x1.fffffep127f;
  const float share = 1.0f / static_cast<float>(C);
  float scale = 1.0f, centre = sum * share, mean, variance;  // the last two are those of d
#pragma unroll 1
  for (int pass = 0;; ++pass) {
    float sums[2] = {0.0f, 0.0f};  // of d, of its squares
    Plan::for_packs(C, [&](int i, int c) {
      if constexpr (!Plan::kKept) load_floats(x + c, v[i]);
#pragma unroll
      for (int j = 0; j < Plan::V; ++j) {
        const float d = fmaf(v[i][j], scale, -centre);
        sums[0] += d;
        sums[1] = fmaf(d, d, sums[1]);
      }
    });
    Plan::sum(sums);
    mean = sums[0] * share;
    variance = sums[1] * share - mean * mean;
    if (pass == 3 || (pass == 0 && mean * mean <= variance && variance <= kLargest)) break;
    // Rare: nearly equal values, where the rough mean is further off than they are apart; and values
    // whose squares or sum are beyond float32 (NaN is infinity less infinity), which are scaled down.
    // Squares of 1e38 * 2^-96 can be added up, and so can those of the last bit of what overflowed.
    if (pass == 0) {
      if (!(variance <= kLargest)) scale = 0x1p-96f;
      centre = 0.0f;
    } else {
      centre += mean;
    }
  }
  if (variance < 0.0f) variance = 0.0f;  // by rounding; NaN stays
  mean = (centre + mean) * (scale < 1.0f ? 0x1p96f : 1.0f);
  // Of values this large, eps is nothing beside a variance that is not 0.
  if (variance == 0.0f) scale = 1.0f;
  return {mean, scale / sqrtf(scale < 1.0f ? variance : variance + eps)};
}

}  // namespace fusedlm::FUSEDLM_DEVICE
