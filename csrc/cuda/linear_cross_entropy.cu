// Linear + cross-entropy in chunks of rows: logits of a chunk by the product, then each row's loss
// and, in place, the gradient of its logits, then at once that chunk's share of dx, dweight and
// dbias. The whole logits never exist, and the forward leaves nothing for the backward to recompute.

#include <algorithm>

#include "cuda/cross_entropy_row.h"
#include "cuda/gemm.h"
#include "fusedlm/linear_cross_entropy.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

#if defined(__CUDACC__)
// Logits of a chunk, at most: some 2,600 rows of 50,257 in bfloat16, a small part of what training
// keeps anyway. Each chunk reads and writes the float32 sums of dweight once, as many bytes as 1,500
// such rows of logits, so fewer rows would be slower.
constexpr index_t kChunkBytes = index_t{256} << 20;
constexpr index_t kLeastRows = 128;
#else
constexpr index_t kChunkBytes = 64 << 10, kLeastRows = 32;  // the emulator's tests see several
#endif

template <class T>
struct Chunk {
  Logits<T> rows;
  const float* row_grad;  // or null
  float* losses;
  bool gradients, mean;
};

template <class T>
__global__ void __launch_bounds__(kRowThreads) rows_kernel(Chunk<T> a) {
  const Row<T> row(a.rows, blockIdx.x);
  const index_t n = a.rows.first + blockIdx.x;
  if (!row.counts()) {
    if (threadIdx.x == 0) a.losses[n] = 0.0f;
    if (a.gradients) row.clear();
    return;
  }
  // Before the row is overwritten: the barriers of the sums lie between.
  const float at_target = row.at_target();
  float weighted;
  const float lse = row.reduce(weighted);
  if (threadIdx.x == 0) a.losses[n] = row.loss(lse, weighted, at_target);
  if (!a.gradients) return;
  row.take_slopes(lse, a.row_grad ? a.row_grad[n] : a.mean ? 1.0f / a.rows.sums[0] : 1.0f);
}

/// Rows [first, first + count) of a 2-D view.
TensorView rows_from(const TensorView& view, index_t first, index_t count) {
  TensorView part = view;
  part.shape[0] = count;
  part.data = static_cast<char*>(view.data) + first * view.strides[0] * size_of(view.dtype);
  return part;
}

}  // namespace

void linear_cross_entropy(const LinearCrossEntropy& a, Context& ctx) {
  const index_t N = a.x.shape[0], C = a.x.shape[1], V = a.weight.shape[0];
  const DType dtype = a.x.dtype;
  const bool gradients = a.dx.defined() || a.dweight.defined() || a.dbias.defined();
  const bool each = a.options.reduction == Reduction::none,
             mean = a.options.reduction == Reduction::mean;
  // Ready for products once, not in each chunk.
  const TensorView x = operand(a.x, dtype, ctx), weight = operand(a.weight, dtype, ctx);
  const index_t most = std::max(kLeastRows, kChunkBytes / (V * size_of(dtype)));
  const index_t chunks = std::max<index_t>(1, ceil_of(N, most)), chunk = ceil_of(N, chunks);
  const TensorView memory = scratch_rows(dtype, chunk, V, ctx);
  const Classes classes{a.targets.as<int64_t>(), a.class_weight.as<float>(), a.options.ignore_index,
                        N, static_cast<int>(V)};
  float* sums = device_scratch<float>(ctx, 2);
  launch("linear_cross_entropy: weights", sum_weights_kernel, 1, kSumThreads, 0, ctx, classes,
         sums);
  float* losses = each ? a.loss.as<float>() : device_scratch<float>(ctx, N);
  // Shares of several chunks add up in float32.
  TensorView dweight = a.dweight;
  if (dweight.defined() && dweight.dtype != DType::float32 && chunks > 1) {
    dweight = scratch_rows(DType::float32, V, C, ctx);
  }
  SumScratch scratch;
  // Without rows, one round sets the gradients of the parameters to zero.
  for (index_t i = 0; i < chunks; ++i) {
    const index_t first = i * chunk, rows = std::max<index_t>(0, std::min(chunk, N - first));
    const TensorView part = rows_from(x, first, rows), logits = rows_from(memory, 0, rows);
    gemm({.form = Form::rows_by_rows,
          .dtype = dtype,
          .a = part,
          .b = weight,
          .out = logits,
          .bias = a.bias},
         scratch, ctx);
    switch_float(dtype, [&](auto t) {
      using T = decltype(t);
      const Chunk<T> rows_of_chunk{.rows = {.classes = classes,
                                            .logits = logits.as<T>(),
                                            .slopes = logits.as<T>(),
                                            .stride = logits.strides[0],
                                            .slope_stride = logits.strides[0],
                                            .first = first,
                                            .sums = sums,
                                            .smoothing = a.options.label_smoothing,
                                            .z_loss = a.options.z_loss,
                                            .softcap = a.options.softcap},
                                   .row_grad = each ? a.row_grad.as<float>() : nullptr,
                                   .losses = losses,
                                   .gradients = gradients,
                                   .mean = mean};
      launch("linear_cross_entropy: rows", rows_kernel<T>, blocks_of(rows), kRowThreads, 0, ctx,
             rows_of_chunk);
    });
    if (a.dx.defined()) {
      gemm({.form = Form::rows_by_columns,
            .dtype = dtype,
            .a = logits,
            .b = weight,
            .out = rows_from(a.dx, first, rows)},
           scratch, ctx);
    }
    if (dweight.defined()) {
      gemm({.form = Form::columns_by_columns,
            .dtype = dtype,
            .a = logits,
            .b = part,
            .out = dweight,
            .accumulate = i > 0},
           scratch, ctx);
    }
    if (a.dbias.defined()) column_sums(logits, a.dbias.as<float>(), i > 0, scratch, ctx);
  }
  if (dweight.defined() && dweight.data != a.dweight.data) copy_rows(dweight, a.dweight, ctx);
  if (!each) {
    launch("linear_cross_entropy: loss", total_kernel, 1, kSumThreads, 0, ctx, losses, N,
           mean ? sums : nullptr, a.loss.as<float>());
  }
}

}  // namespace fusedlm::FUSEDLM_DEVICE
