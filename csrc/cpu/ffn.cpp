// Feed-forward block. Where the packed weights are of a size that L3 holds, the rows go through it
// block by block on one thread: the up product writes the preactivation, a pass over those rows
// makes h, and the down product takes h from L2; h is never written as a whole. The backward
// does the same from dy to dx, and keeps h and dup for the products that give the weights' gradients.
// Larger weights run product after product over all rows.

#include "fusedlm/ffn.h"

#include "cpu/activation.h"
#include "cpu/gemm_rows.h"
#include "cpu/gemm_views.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

constexpr index_t kRows = 16;  // rows per task: a few dozen KiB of each operand

TensorView scratch(index_t rows, index_t columns, DType dtype, Context& ctx) {
  return TensorView(ctx.workspace().take_bytes(rows * columns * size_of(dtype)), dtype,
                    {rows, columns});
}

// On all threads; on the calling one alone inside a task.
template <class Fn>
void for_rows(index_t N, Fn&& fn) {
  parallel_for(ceil_div(N, kRows), [&](index_t task, int) {
    const index_t end = min_of(N, (task + 1) * kRows);
    for (index_t r = task * kRows; r < end; ++r) fn(r);
  });
}

// h = act(up) or act(gate) * up.
void make_hidden(Activation activation, const TensorView& up, const TensorView& gate,
                 const TensorView& hidden) {
  switch_float(up.dtype, [&](auto type) {
    switch_activation(activation, [&](auto kind) {
      using T = decltype(type);
      for_rows(up.shape[0], [&](index_t r) {
        const T *u = up.row<T>(r), *g = gate.defined() ? gate.row<T>(r) : nullptr;
        T* h = hidden.row<T>(r);
        const auto plain = [&](index_t c, auto... n) {
          activate<T, kind()>(Vec::load(u + c, n...)).store(h + c, n...);
        };
        const auto gated = [&](index_t c, auto... n) {
          (activate<T, kind()>(Vec::load(g + c, n...)) * Vec::load(u + c, n...)).store(h + c, n...);
        };
        if (g) {
          for_each_vec(hidden.shape[1], gated, gated);
        } else {
          for_each_vec(hidden.shape[1], plain, plain);
        }
      });
    });
  });
}

// In: dh in `dup`. Out: h in `hidden`, the gradient of up in `dup` and of gate in `dgate`.
void hidden_backward(Activation activation, const TensorView& up, const TensorView& gate,
                     const TensorView& hidden, const TensorView& dup, const TensorView& dgate) {
  switch_float(up.dtype, [&](auto type) {
    switch_activation(activation, [&](auto kind) {
      using T = decltype(type);
      for_rows(up.shape[0], [&](index_t r) {
        const T *u = up.row<T>(r), *g = gate.defined() ? gate.row<T>(r) : nullptr;
        T *d = dup.row<T>(r), *h = hidden.row<T>(r), *dg = g ? dgate.row<T>(r) : nullptr;
        const auto plain = [&](index_t c, auto... n) {
          const Vec x = Vec::load(u + c, n...);
          activate<T, kind()>(x).store(h + c, n...);
          (Vec::load(d + c, n...) * activate_slope<T, kind()>(x)).store(d + c, n...);
        };
        const auto gated = [&](index_t c, auto... n) {
          const Vec x = Vec::load(u + c, n...), s = Vec::load(g + c, n...),
                    e = Vec::load(d + c, n...);
          const Vec active = activate<T, kind()>(s);
          (active * x).store(h + c, n...);
          (e * active).store(d + c, n...);
          (e * x * activate_slope<T, kind()>(s)).store(dg + c, n...);
        };
        if (g) {
          for_each_vec(hidden.shape[1], gated, gated);
        } else {
          for_each_vec(hidden.shape[1], plain, plain);
        }
      });
    });
  });
}

}  // namespace

void ffn_forward(const FfnForward& a, Context& ctx) {
  const bool low = a.x.dtype == DType::bfloat16, gated = a.gate_weight.defined();
  const index_t N = a.x.shape[0], C = a.x.shape[1], F = a.up_weight.shape[0];
  RowChain chain(N, {{C, F}, {F, C}}, F * size_of(a.x.dtype), low, ctx);
  const PackedB up_b = chain.pack(matrix_of(a.up_weight).transposed(), C, F);
  const PackedB gate_b =
      gated ? chain.pack(matrix_of(a.gate_weight).transposed(), C, F) : PackedB{};
  const PackedB down_b = chain.pack(matrix_of(a.down_weight).transposed(), F, C);
  const index_t kept = chain.by_blocks() ? chain.block_rows() * num_threads() : N;
  const TensorView all_hidden = scratch(kept, F, a.x.dtype, ctx);
  chain.for_each_block([&](index_t first, index_t count, int thread) {
    const TensorView x = rows_of(a.x, first, count), up = rows_of(a.up, first, count),
                     gate = rows_of(a.gate, first, count),
                     hidden = rows_of(all_hidden, thread * chain.block_rows(), count);
    Gemm to_up = product(matrix_of(x), matrix_of(a.up_weight).transposed(), up, C, low);
    add_bias(to_up, a.up_bias);
    chain.multiply(to_up, up_b, thread);
    if (gated) {
      Gemm to_gate = product(matrix_of(x), matrix_of(a.gate_weight).transposed(), gate, C, low);
      add_bias(to_gate, a.gate_bias);
      chain.multiply(to_gate, gate_b, thread, true);
    }
    make_hidden(a.activation, up, gated ? gate : TensorView(), hidden);
    const TensorView residual = rows_of(a.residual, first, count);
    Gemm down = product(matrix_of(hidden), matrix_of(a.down_weight).transposed(),
                        rows_of(a.y, first, count), F, low);
    add_bias(down, a.down_bias);
    if (residual.defined())
      down.residual = residual.data, down.residual_stride = residual.strides[0];
    chain.multiply(down, down_b, thread);
  });
}

void ffn_backward(const FfnBackward& a, Context& ctx) {
  const bool low = a.x.dtype == DType::bfloat16, gated = a.gate_weight.defined();
  const index_t N = a.x.shape[0], C = a.x.shape[1], F = a.up_weight.shape[0];
  const DType dtype = a.x.dtype;
  const TensorView all_dup = scratch(N, F, dtype, ctx), all_hidden = scratch(N, F, dtype, ctx);
  const TensorView all_dgate = gated ? scratch(N, F, dtype, ctx) : TensorView();
  RowChain chain(N, {{C, F}, {F, C}}, (gated ? 2 : 1) * F * size_of(dtype), low, ctx);
  const PackedB down_b = chain.pack(matrix_of(a.down_weight), C, F);
  const PackedB up_b = chain.pack(matrix_of(a.up_weight), F, C);
  const PackedB gate_b = gated ? chain.pack(matrix_of(a.gate_weight), F, C) : PackedB{};
  const index_t kept = chain.by_blocks() ? chain.block_rows() * num_threads() : N;
  const TensorView all_wide = gated ? scratch(kept, C, DType::float32, ctx) : TensorView();
  chain.for_each_block([&](index_t first, index_t count, int thread) {
    const TensorView dup = rows_of(all_dup, first, count), dx = rows_of(a.dx, first, count),
                     dgate = rows_of(all_dgate, first, count);
    const auto dy = matrix_of(rows_of(a.dy, first, count));
    chain.multiply(product(dy, matrix_of(a.down_weight), dup, C, low), down_b, thread);
    hidden_backward(a.activation, rows_of(a.up, first, count),
                    gated ? rows_of(a.gate, first, count) : TensorView(),
                    rows_of(all_hidden, first, count), dup, dgate);
    if (!gated) {
      return chain.multiply(product(matrix_of(dup), matrix_of(a.up_weight), dx, F, low), up_b,
                            thread);
    }
    // The two parts of dx meet in float32, in this order.
    const TensorView wide = rows_of(all_wide, thread * chain.block_rows(), count);
    chain.multiply(product(matrix_of(dup), matrix_of(a.up_weight), wide, F, low), up_b, thread);
    Gemm through_gate = product(matrix_of(dgate), matrix_of(a.gate_weight), wide, F, low);
    through_gate.accumulate = true;
    chain.multiply(through_gate, gate_b, thread);
    round_rows(wide, dx);
  });
  const auto dweight = [&](const TensorView& out, const TensorView& left, const TensorView& right) {
    if (out.defined())
      gemm(product(matrix_of(left).transposed(), matrix_of(right), out, N, low), ctx);
  };
  const auto dbias = [&](const TensorView& out, const TensorView& rows) {
    if (out.defined()) column_sums(rows, out.as<float>(), ctx);
  };
  dweight(a.ddown_weight, a.dy, all_hidden);
  dbias(a.ddown_bias, a.dy);
  dweight(a.dup_weight, all_dup, a.x);
  dbias(a.dup_bias, all_dup);
  if (gated) {
    dweight(a.dgate_weight, all_dgate, a.x);
    dbias(a.dgate_bias, all_dgate);
  }
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
