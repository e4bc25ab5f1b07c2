// Cross-entropy of logits that are given, a block to a row: the forward keeps the log of the sum of a
// row, the backward reads the logits once more and writes their gradient.

#include "cuda/cross_entropy_row.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

template <class T>
__global__ void __launch_bounds__(kRowThreads)
    forward_kernel(Logits<T> a, float* losses, float* lse) {
  const Row<T> row(a, blockIdx.x);
  float kept = 0.0f, loss = 0.0f;
  if (row.counts()) {  // the same for all threads of the block
    float weighted;
    kept = row.reduce(weighted);
    loss = row.loss(kept, weighted, row.at_target());
  }
  if (threadIdx.x == 0) losses[blockIdx.x] = loss, lse[blockIdx.x] = kept;
}

/// dloss of each row if `each`, else of all of them.
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    backward_kernel(Logits<T> a, const float* dloss, bool each, bool mean, const float* lse) {
  const Row<T> row(a, blockIdx.x);
  if (!row.counts()) return row.clear();
  const float share = mean ? 1.0f / a.sums[0] : 1.0f;
  row.take_slopes(lse[blockIdx.x], share * dloss[each ? blockIdx.x : 0]);
}

template <class T, class Args>
Logits<T> rows_of(const Args& a, const TensorView& slopes, Context& ctx) {
  const index_t N = a.logits.shape[0], V = a.logits.shape[1];
  const Classes classes{a.targets.template as<int64_t>(), a.class_weight.template as<float>(),
                        a.options.ignore_index, N, static_cast<int>(V)};
  float* sums = device_scratch<float>(ctx, 2);
  launch("cross_entropy: weights", sum_weights_kernel, 1, kSumThreads, 0, ctx, classes, sums);
  return {.classes = classes,
          .logits = a.logits.template as<T>(),
          .slopes = slopes.as<T>(),
          .stride = a.logits.strides[0],
          .slope_stride = slopes.strides[0],
          .first = 0,
          .sums = sums,
          .smoothing = a.options.label_smoothing,
          .z_loss = a.options.z_loss,
          .softcap = a.options.softcap};
}

}  // namespace

void cross_entropy_forward(const CrossEntropyForward& a, Context& ctx) {
  const index_t N = a.logits.shape[0];
  const Reduction reduction = a.options.reduction;
  float* losses = reduction == Reduction::none ? a.loss.as<float>() : device_scratch<float>(ctx, N);
  switch_float(a.logits.dtype, [&](auto t) {
    using T = decltype(t);
    const Logits<T> rows = rows_of<T>(a, {}, ctx);
    launch("cross_entropy: rows", forward_kernel<T>, blocks_of(N), kRowThreads, 0, ctx, rows,
           losses, a.lse.as<float>());
    if (reduction == Reduction::none) return;
    launch("cross_entropy: loss", total_kernel, 1, kSumThreads, 0, ctx, losses, N,
           reduction == Reduction::mean ? rows.sums : nullptr, a.loss.as<float>());
  });
}

void cross_entropy_backward(const CrossEntropyBackward& a, Context& ctx) {
  const bool each = a.options.reduction == Reduction::none;
  switch_float(a.logits.dtype, [&](auto t) {
    using T = decltype(t);
    launch("cross_entropy: slopes", backward_kernel<T>, blocks_of(a.logits.shape[0]), kRowThreads,
           0, ctx, rows_of<T>(a, a.dlogits, ctx), a.dloss.as<float>(), each,
           a.options.reduction == Reduction::mean, a.lse.as<float>());
  });
}

}  // namespace fusedlm::FUSEDLM_DEVICE
