// Sums over the rows of a view, for the gradients of biases, in two stages. A block takes a strip of
// columns over a range of rows, its warps every kWarps-th row with 16 bytes a lane, and adds its
// warps in order; the second kernel adds the blocks in order.

#include <algorithm>

#include "cuda/gemm.h"
#include "cuda/sum_rows.h"
#include "cuda/types.h"
#include "cuda/warp.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

constexpr int kWarps = 8;
// Rows of a block, at least: 16 loads in a row for each warp; and blocks along the rows, at most:
// with a few strips of columns they occupy the largest GPUs, and the second stage stays short.
constexpr index_t kLeastRows = 128, kMostBlocks = 256;

template <class T>
struct Strip {
  const T* rows;
  index_t stride, R;
  int C, rows_each;
  float* sums;  // [blocks, C]
};

template <int V, class T>
__global__ void __launch_bounds__(kWarps* kWarp) strip_kernel(Strip<T> a) {
  FUSEDLM_SHARED(float, partial, [kWarps][kWarp * V]);
  const int column = (static_cast<int>(blockIdx.y) * kWarp + lane_id()) * V;
  const index_t first = static_cast<index_t>(blockIdx.x) * a.rows_each;
  const index_t end = first + a.rows_each < a.R ? first + a.rows_each : a.R;
  float sum[V] = {};
  if (column < a.C) {
#pragma unroll 4
    for (index_t r = first + warp_id(); r < end; r += kWarps) {
      float x[V];
      load_floats(a.rows + r * a.stride + column, x);
#pragma unroll
      for (int j = 0; j < V; ++j) sum[j] += x[j];
    }
  }
  // Neighbouring lanes write neighbouring banks.
#pragma unroll
  for (int j = 0; j < V; ++j) partial[warp_id()][j * kWarp + lane_id()] = sum[j];
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kWarp * V; i += kWarps * kWarp) {
    const int c = static_cast<int>(blockIdx.y) * kWarp * V + i % kWarp * V + i / kWarp;
    if (c >= a.C) continue;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += partial[w][i];
    a.sums[blockIdx.x * static_cast<index_t>(a.C) + c] = total;
  }
}

}  // namespace

void column_sums(const TensorView& view, float* total, bool accumulate, SumScratch& scratch,
                 Context& ctx) {
  const index_t R = view.shape[0], C = view.shape[1];
  const index_t rows_each = std::max(kLeastRows, ceil_of(R, kMostBlocks));
  const index_t blocks = ceil_of(R, rows_each);
  float* sums = scratch.take(blocks * C, ctx);
  switch_float(view.dtype, [&](auto t) {
    using T = decltype(t);
    const auto with = [&](auto v) {
      constexpr int V = decltype(v)::value;
      const Strip<T> strip{
          view.as<T>(), view.strides[0], R, static_cast<int>(C), static_cast<int>(rows_each), sums};
      const dim3 grid(blocks_of(blocks), blocks_of(ceil_of<index_t>(C, kWarp * V)));
      launch("column_sums: blocks", strip_kernel<V, T>, grid, kWarps * kWarp, 0, ctx, strip);
    };
    if (can_pack(view) && C % kPack<T> == 0) {
      with(std::integral_constant<int, kPack<T>>{});
    } else {
      with(std::integral_constant<int, 1>{});
    }
  });
  sum_rows("column_sums", sums, blocks, C, total, ctx, accumulate);
}

}  // namespace fusedlm::FUSEDLM_DEVICE
