#pragma once
// The products that linear layers need, on views; and the ordered sum over rows for a bias.

#include "cpu/gemm.h"
#include "cpu/switch.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

inline Matrix matrix_of(const TensorView& view) {
  return {view.data, view.dtype, view.strides[0], view.strides[1]};
}

/// Rows [first, first + count) of a 2-D view; an undefined one stays so.
inline TensorView rows_of(TensorView view, index_t first, index_t count) {
  if (!view.defined()) return view;
  view.data = static_cast<char*>(view.data) + first * view.strides[0] * size_of(view.dtype);
  view.shape[0] = count;
  return view;
}

/// c = a * b where the shapes say so: a [M, K], b [K, N], c [M, N]. Products in bfloat16 if `low`.
inline Gemm product(const Matrix& a, const Matrix& b, const TensorView& c, index_t K, bool low) {
  Gemm g{.M = c.shape[0],
         .N = c.shape[1],
         .K = K,
         .A = a,
         .B = b,
         .C = c.data,
         .c_dtype = c.dtype,
         .c_stride = c.strides[0]};
  g.low_precision = low;
  return g;
}

inline void add_bias(Gemm& g, const TensorView& bias) {
  if (bias.defined()) g.bias = bias.data, g.bias_dtype = bias.dtype;
}

/// totals[c] = sum over rows of view[r][c], float32; blocks of rows in block order.
inline void column_sums(const TensorView& view, float* totals, Context& ctx) {
  constexpr index_t kRows = 64;  // as for the norms: a task is worth its start
  const index_t N = view.shape[0], C = view.shape[1], tasks = ceil_div(N, kRows);
  Workspace::Scope scope(ctx.workspace());
  float* partial = ctx.workspace().take<float>(tasks * C);
  switch_float(view.dtype, [&](auto type) {
    using T = decltype(type);
    parallel_for(tasks, [&](index_t task, int) {
      const index_t first = task * kRows, end = min_of(N, first + kRows);
      const auto add = [&](index_t c, auto... n) {
        Vec sum;
        for (index_t r = first; r < end; ++r) sum = sum + Vec::load(view.row<T>(r) + c, n...);
        sum.store(partial + task * C + c, n...);
      };
      for_each_vec(C, add, add);
    });
  });
  sum_rows(partial, tasks, C, totals);
}

/// to = from, of the same shape; from is float32, to of either dtype.
inline void round_rows(const TensorView& from, const TensorView& to) {
  switch_float(to.dtype, [&](auto type) {
    using T = decltype(type);
    parallel_for(from.shape[0], [&](index_t r, int) {
      convert_row(from.row<float>(r), from.shape[1], to.row<T>(r));
    });
  });
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
