// Linear + cross-entropy in chunks of rows: logits of a chunk by the packed product, then each
// row's loss and, in place, the gradient of its logits, then at once that chunk's share of dx,
// dweight and dbias. The whole logits never exist, and the forward leaves nothing for the backward
// to recompute.

#include "fusedlm/linear_cross_entropy.h"

#include "cpu/cross_entropy_row.h"
#include "cpu/gemm_views.h"
#include "fusedlm/arena.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

// Logits of a chunk, at most: a quarter of what the whole logits and their gradient take at N =
// 1024 and V = 50257. Fewer chunks pack the weights less often and add to dweight less often.
constexpr index_t kChunkBytes = index_t{104} << 20;
constexpr index_t kLeastRows = 64;

// Logits (of dtype L) of row n -> its loss and, if wanted, the gradient of its logits (as T) in place: as
// bfloat16 where the products that follow are bfloat16, in the first half of the row's memory where the
// logits are float32.
template <class T, class L>
void finish_row(const LinearCrossEntropy& a, const RowLoss& loss, index_t n, L* row, bool gradients,
                float share, float* losses) {
  const index_t V = a.weight.shape[0], target = a.targets.as<int64_t>()[n];
  if (target == a.options.ignore_index) {
    losses[n] = 0.0f;
    if (gradients) __builtin_memset(row, 0, static_cast<size_t>(V) * sizeof(L));
    return;
  }
  // Logits to be capped are float32.
  const RowSums sums = reduce_row(loss, row, reinterpret_cast<float*>(row), V);
  losses[n] = loss_of_row(loss, sums, to_float(row[target]), target, V);
  if (!gradients) return;
  const float scale = a.options.reduction == Reduction::none ? a.row_grad.as<float>()[n] : share;
  slope_row(loss, row, reinterpret_cast<T*>(row), V, target, sums.lse, scale);
}

void add_columns(const TensorView& rows, float* part, float* total, Context& ctx) {
  column_sums(rows, part, ctx);
  const auto add = [&](index_t c, auto... n) {
    (Vec::load(total + c, n...) + Vec::load(part + c, n...)).store(total + c, n...);
  };
  for_each_vec(rows.shape[1], add, add);
}

}  // namespace

void linear_cross_entropy(const LinearCrossEntropy& a, Context& ctx) {
  const index_t N = a.x.shape[0], C = a.x.shape[1], V = a.weight.shape[0];
  const bool low = a.x.dtype == DType::bfloat16;
  const bool gradients = a.dx.defined() || a.dweight.defined() || a.dbias.defined();
  // A capped logit is written back, and would be rounded twice.
  const DType logits_dtype = low && a.options.softcap == 0.0f ? DType::bfloat16 : DType::float32;
  Workspace& ws = ctx.workspace();
  const WeightSums sums = sum_weights(a.targets, a.class_weight, V, a.options.ignore_index);
  const RowLoss loss = row_loss(a, sums);
  const float share = share_of_row(a.options.reduction, sums);
  const index_t most = max_of(kLeastRows, kChunkBytes / (V * size_of(logits_dtype)));
  const index_t chunk = max_of(1, ceil_div(N, max_of(1, ceil_div(N, most))));
  // From the arena: what the backward makes of a step may lie there next.
  const ArenaBlock memory(static_cast<size_t>(chunk * V * size_of(logits_dtype)));
  float* losses = a.options.reduction == Reduction::none ? a.loss.as<float>() : ws.take<float>(N);
  float* bias_part = a.dbias.defined() ? ws.take<float>(V) : nullptr;
  if (a.dbias.defined()) __builtin_memset(a.dbias.data, 0, static_cast<size_t>(V) * sizeof(float));
  // Shares of several chunks add up in float32.
  TensorView dweight = a.dweight;
  if (dweight.defined() && dweight.dtype != DType::float32 && chunk < N) {
    dweight = TensorView(ws.take<float>(V * C), DType::float32, {V, C});
  }
  if (dweight.defined() && N == 0) {
    __builtin_memset(dweight.data, 0, static_cast<size_t>(V * C * size_of(dweight.dtype)));
  }
  for (index_t n0 = 0; n0 < N; n0 += chunk) {
    const index_t rows = min_of(chunk, N - n0);
    const TensorView x = rows_of(a.x, n0, rows), logits(memory.data, logits_dtype, {rows, V});
    Gemm forward = product(matrix_of(x), matrix_of(a.weight).transposed(), logits, C, low);
    add_bias(forward, a.bias);
    gemm(forward, ctx);
    switch_float(a.x.dtype, [&](auto slope) {
      switch_float(logits_dtype, [&](auto logit) {
        using L = decltype(logit);
        parallel_for(rows, [&](index_t r, int) {
          finish_row<decltype(slope)>(a, loss, n0 + r, logits.row<L>(r), gradients, share, losses);
        });
      });
    });
    if (!gradients) continue;
    TensorView slopes = logits;
    slopes.dtype = a.x.dtype;
    slopes.strides[0] = V * (size_of(logits_dtype) / size_of(slopes.dtype));
    if (a.dx.defined()) {
      gemm(product(matrix_of(slopes), matrix_of(a.weight), rows_of(a.dx, n0, rows), V, low), ctx);
    }
    if (dweight.defined()) {
      Gemm share = product(matrix_of(slopes).transposed(), matrix_of(x), dweight, rows, low);
      share.accumulate = n0 > 0;
      gemm(share, ctx);
    }
    if (a.dbias.defined()) add_columns(slopes, bias_part, a.dbias.as<float>(), ctx);
  }
  if (dweight.defined() && dweight.data != a.dweight.data) round_rows(dweight, a.dweight);
  if (a.options.reduction == Reduction::none) return;
  *a.loss.as<float>() = loss_of_rows(a.options.reduction, sums, losses, N);
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
