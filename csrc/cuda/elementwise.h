#pragma once
// One pass over the elements of a few [rows, columns] views: each thread has V neighbouring columns
// of a row. Short rows share a block, so that few threads are idle.

#include "cuda/launch.h"
#include "cuda/types.h"

namespace fusedlm::FUSEDLM_DEVICE {

/// Rows of elements with a stride; null data: not given.
template <class T>
struct Rows {
  T* data = nullptr;
  index_t stride = 0;
  __device__ __forceinline__ T* at(index_t row, int column) const {
    return data + row * stride + column;
  }
};

template <class T>
Rows<T> rows_of(const TensorView& view) {
  if (!view.defined()) return {};
  return {view.as<T>(), view.strides[0]};
}

constexpr int kElementwiseThreads = 128;

/// fn.run<V>(row, column) for each pack; `shift` is the logarithm of the threads a row has.
template <int V, class Fn>
__global__ void __launch_bounds__(kElementwiseThreads)
    elementwise_kernel(Fn fn, index_t R, int C, int shift) {
  const int thread = static_cast<int>(threadIdx.x);
  const index_t row =
      static_cast<index_t>(blockIdx.x) * (kElementwiseThreads >> shift) + (thread >> shift);
  const int pack = (static_cast<int>(blockIdx.y) << shift) + (thread & ((1 << shift) - 1));
  if (row < R && pack < C / V) fn.template run<V>(row, pack * V);
}

/// With `packed`, every view can be accessed in packs of four elements.
template <class Fn>
void elementwise(const char* name, const Fn& fn, index_t R, index_t C, bool packed, Context& ctx) {
  const auto with = [&](auto v) {
    constexpr int V = decltype(v)::value;
    int shift = 0;
    while ((1 << shift) < kElementwiseThreads && (1 << shift) < C / V) ++shift;
    const dim3 grid(blocks_of(ceil_of<index_t>(R, kElementwiseThreads >> shift)),
                    blocks_of(ceil_of<index_t>(C / V, index_t{1} << shift)));
    launch(name, elementwise_kernel<V, Fn>, grid, kElementwiseThreads, 0, ctx, fn, R, C, shift);
  };
  if (packed && C % 4 == 0) {
    with(std::integral_constant<int, 4>{});
  } else {
    with(std::integral_constant<int, 1>{});
  }
}

}  // namespace fusedlm::FUSEDLM_DEVICE
