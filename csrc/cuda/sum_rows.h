#pragma once
// The second stage of the gradients of parameters: partial sums, row by row.

#include "cuda/launch.h"
#include "cuda/warp.h"

namespace fusedlm::FUSEDLM_DEVICE {

/// total[c] = sum over r of rows[r * C + c], after what is there if `accumulate`. A block sums 32 columns: its warps take every
/// kWarps-th row, and their sums are added in order.
template <int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp)
    sum_rows_kernel(const float* rows, int count, int C, float* total, bool accumulate) {
  FUSEDLM_SHARED(float, partial, [kWarps][kWarp]);
  const int lane = lane_id(), group = warp_id();
  const int c = blockIdx.x * kWarp + lane;
  float sum = 0.0f;
  if (c < C) {
    for (int r = group; r < count; r += kWarps) sum += rows[static_cast<index_t>(r) * C + c];
  }
  partial[group][lane] = sum;
  __syncthreads();
  if (group == 0 && c < C) {
    sum = accumulate ? total[c] : 0.0f;
    for (int g = 0; g < kWarps; ++g) sum += partial[g][lane];
    total[c] = sum;
  }
}

inline void sum_rows(const char* name, const float* rows, index_t count, index_t C, float* total,
                     Context& ctx, bool accumulate = false) {
  constexpr int kWarps = 8;
  launch(name, sum_rows_kernel<kWarps>, blocks_of(ceil_of<index_t>(C, kWarp)), kWarps * kWarp, 0,
         ctx, rows, count, C, total, accumulate);
}

}  // namespace fusedlm::FUSEDLM_DEVICE
