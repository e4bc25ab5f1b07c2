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
  const float size = static_cast<float>(C);
  // Mean and variance of d = x * scale - centre.
  const auto centred = [&](float scale, float centre) {
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
    const float mean = sums[0] / size;
    return make_float2(mean, sums[1] / size - mean * mean);
  };
  const float rough = sum / size;
  const float2 first = centred(1.0f, rough);
  const bool overflows = !(first.y <= kLargest);  // NaN is infinity less infinity
  if (!overflows && first.x * first.x <= first.y) {
    return {rough + first.x, 1.0f / sqrtf(first.y + eps)};
  }
  // Rare: nearly equal values, where the rough mean is further off than they are apart; and values
  // whose squares or sum are beyond float32, which are scaled down. Squares of 1e38 * 2^-96 can be
  // added up, and so can those of the last bit of what overflowed.
  const float scale = overflows ? 0x1p-96f : 1.0f;
  float centre = 0.0f;
  float2 d = make_float2(0.0f, 0.0f);
#pragma unroll 1
  for (int pass = 0; pass < 3; ++pass) {
    centre += d.x;
    d = centred(scale, centre);
  }
  const float variance = d.y < 0.0f ? 0.0f : d.y;  // by rounding; NaN stays
  const float mean = (centre + d.x) / scale;
  // Of values this large, eps is nothing beside a variance that is not 0.
  if (overflows && variance != 0.0f) return {mean, scale / sqrtf(variance)};
  return {mean, 1.0f / sqrtf(variance + eps)};
}

}  // namespace fusedlm::FUSEDLM_DEVICE
