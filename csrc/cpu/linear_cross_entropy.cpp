// Linear + cross-entropy in chunks of rows: logits of a chunk by the packed product, then each
// row's loss and, in place, the gradient of its logits, then at once that chunk's share of dx,
// dweight and dbias. The whole logits never exist, and the forward leaves nothing for the backward
// to recompute. A chunk lies in slabs of columns, so that its memory can go as dweight comes.

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
// Columns of a slab: one block of K for the product that makes dx in bfloat16.
constexpr index_t kWidth = 3072;

// The logits of a chunk, later their gradients: slab after slab, each [rows, kWidth] and contiguous, the
// last one as wide as what is left.
struct Logits {
  char* data;
  DType dtype;
  index_t rows, V;

  index_t columns(index_t v0) const { return min_of(kWidth, V - v0); }
  char* slab(index_t v0) const { return data + v0 * rows * size_of(dtype); }
  TensorView view(index_t v0) const { return {slab(v0), dtype, {rows, columns(v0)}}; }
  LogitRow row(index_t r) const { return {data, size_of(dtype), V, kWidth, rows, r}; }
  /// The gradients that were written over the logits, as `type`, which may be smaller.
  TensorView slopes(index_t v0, DType type) const {
    TensorView view = this->view(v0);
    view.dtype = type;
    view.strides[0] *= size_of(dtype) / size_of(type);
    return view;
  }
};

// Logits (of dtype L) of row n -> its loss and, if wanted, the gradient of its logits (as T) in place: as
// bfloat16 where the products that follow are bfloat16, in the first half of a slab's row where the
// logits are float32.
template <class T, class L>
void finish_row(const LinearCrossEntropy& a, const RowLoss& loss, index_t n, const LogitRow& row,
                bool gradients, float share, float* losses) {
  const index_t target = a.targets.as<int64_t>()[n];
  if (target == a.options.ignore_index) {
    losses[n] = 0.0f;
    if (!gradients) return;
    return row.for_each_piece([&](index_t v0, index_t count) {
      __builtin_memset(row.at<T>(v0), 0, static_cast<size_t>(count) * sizeof(T));
    });
  }
  // Logits to be capped are float32.
  const RowSums sums = reduce_row<L>(loss, row, row);
  losses[n] = loss_of_row(loss, sums, to_float(row.element<L>(target)), target, row.V);
  if (!gradients) return;
  const float scale = a.options.reduction == Reduction::none ? a.row_grad.as<float>()[n] : share;
  slope_row<T, L>(loss, row, row, target, sums.lse, scale);
}

void add_columns(const TensorView& rows, float* part, float* total, Context& ctx) {
  column_sums(rows, part, ctx);
  const auto add = [&](index_t c, auto... n) {
    (Vec::load(total + c, n...) + Vec::load(part + c, n...)).store(total + c, n...);
  };
  for_each_vec(rows.shape[1], add, add);
}

// dweight [V, C] is written from its first row on, slab by slab of the logits. Where it is float32 and as
// large as they are, they may lie at its end: dweight[:v] ends at or before the slab that starts with
// column v. Null where that does not hold.
char* at_the_end_of(const TensorView& dweight, index_t bytes) {
  if (!dweight.defined() || dweight.dtype != DType::float32) return nullptr;
  const index_t V = dweight.shape[0], C = dweight.shape[1], before = V * C * 4 - bytes;
  if (dweight.strides[0] != C || before < 0) return nullptr;
  return static_cast<char*>(dweight.data) + before;
}

void copy_slab(const Logits& logits, index_t v0, char* to) {
  const index_t bytes = logits.columns(v0) * size_of(logits.dtype);
  const char* from = logits.slab(v0);
  parallel_for(logits.rows, [&](index_t r, int) {
    __builtin_memcpy(to + r * bytes, from + r * bytes, static_cast<size_t>(bytes));
  });
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
  const index_t unit = size_of(logits_dtype);
  const index_t most = max_of(kLeastRows, kChunkBytes / (V * unit));
  const index_t chunk = max_of(1, ceil_div(N, max_of(1, ceil_div(N, most))));
  float* losses = a.options.reduction == Reduction::none ? a.loss.as<float>() : ws.take<float>(N);
  float* bias_part = a.dbias.defined() ? ws.take<float>(min_of(kWidth, V)) : nullptr;
  if (a.dbias.defined()) __builtin_memset(a.dbias.data, 0, static_cast<size_t>(V) * sizeof(float));
  // Shares of several chunks add up in float32.
  TensorView dweight = a.dweight;
  if (dweight.defined() && dweight.dtype != DType::float32 && chunk < N) {
    dweight = TensorView(ws.take<float>(V * C), DType::float32, {V, C});
  }
  if (dweight.defined() && N == 0) {
    __builtin_memset(dweight.data, 0, static_cast<size_t>(V * C * size_of(dweight.dtype)));
  }
  // Shares of several slabs, too.
  const bool rounds_dx = a.dx.defined() && a.dx.dtype != DType::float32;
  float* dx_sums = rounds_dx ? ws.take<float>(chunk * C) : nullptr;
  char* shared = chunk < N ? nullptr : at_the_end_of(dweight, chunk * V * unit);
  char* spare =
      shared ? static_cast<char*>(ws.take_bytes(chunk * min_of(kWidth, V) * unit)) : nullptr;
  // From the arena: what the backward makes of a step may lie there next.
  const ArenaBlock memory(shared ? 0 : static_cast<size_t>(chunk * V * unit));
  for (index_t n0 = 0; n0 < N; n0 += chunk) {
    const index_t rows = min_of(chunk, N - n0);
    const TensorView x = rows_of(a.x, n0, rows);
    const Logits logits{shared ? shared : static_cast<char*>(memory.data), logits_dtype, rows, V};
    for (index_t v0 = 0; v0 < V; v0 += kWidth) {
      const index_t columns = logits.columns(v0);
      const Matrix weight = matrix_of(rows_of(a.weight, v0, columns));
      Gemm forward = product(matrix_of(x), weight.transposed(), logits.view(v0), C, low);
      add_bias(forward, rows_of(a.bias, v0, columns));
      gemm(forward, ctx);
    }
    switch_float(a.x.dtype, [&](auto slope) {
      switch_float(logits_dtype, [&](auto logit) {
        using L = decltype(logit);
        parallel_for(rows, [&](index_t r, int) {
          finish_row<decltype(slope), L>(a, loss, n0 + r, logits.row(r), gradients, share, losses);
        });
      });
    });
    if (!gradients) continue;
    const TensorView dx = rows_of(a.dx, n0, rows);
    const TensorView dx_part = rounds_dx ? TensorView(dx_sums, DType::float32, {rows, C}) : dx;
    for (index_t v0 = 0; v0 < V; v0 += kWidth) {
      const index_t columns = logits.columns(v0);
      TensorView slopes = logits.slopes(v0, a.x.dtype);
      if (dx.defined()) {
        const Matrix weight = matrix_of(rows_of(a.weight, v0, columns));
        Gemm part = product(matrix_of(slopes), weight, dx_part, columns, low);
        part.accumulate = v0 > 0;
        gemm(part, ctx);
      }
      if (a.dbias.defined()) add_columns(slopes, bias_part, a.dbias.as<float>() + v0, ctx);
      if (!dweight.defined()) continue;
      const TensorView made = rows_of(dweight, v0, columns);
      if (shared && static_cast<char*>(made.data) + columns * C * 4 > logits.slab(v0)) {
        copy_slab(logits, v0, spare);
        slopes.data = spare;
      }
      Gemm part = product(matrix_of(slopes).transposed(), matrix_of(x), made, rows, low);
      part.accumulate = n0 > 0;
      gemm(part, ctx);
    }
    if (rounds_dx) round_rows(dx_part, dx);
  }
  if (dweight.defined() && dweight.data != a.dweight.data) round_rows(dweight, a.dweight);
  if (a.options.reduction == Reduction::none) return;
  *a.loss.as<float>() = loss_of_rows(a.options.reduction, sums, losses, N);
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
