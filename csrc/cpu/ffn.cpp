// Feed-forward block. The up product writes its preactivation and, in the same epilogue, the
// activated h; a gated block multiplies act(gate) * up in one pass over rows. The backward keeps
// only the preactivations: one pass over dh makes h again and dup (and dgate), and the products
// follow.

#include "fusedlm/ffn.h"

#include "cpu/activation.h"
#include "cpu/gemm_views.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

constexpr index_t kRows = 16;  // rows per task: a few dozen KiB of each operand

TensorView scratch_like(const TensorView& view, Context& ctx) {
  return TensorView(ctx.workspace().take_bytes(view.numel() * size_of(view.dtype)), view.dtype,
                    {view.shape[0], view.shape[1]});
}

template <class Fn>
void for_rows(index_t N, Fn&& fn) {
  parallel_for(ceil_div(N, kRows), [&](index_t task, int) {
    const index_t end = min_of(N, (task + 1) * kRows);
    for (index_t r = task * kRows; r < end; ++r) fn(r);
  });
}

void multiply_gate(const FfnForward& a, const TensorView& hidden) {
  switch_float(a.x.dtype, [&](auto type) {
    switch_activation(a.activation, [&](auto kind) {
      using T = decltype(type);
      for_rows(a.x.shape[0], [&](index_t r) {
        const T *up = a.up.row<T>(r), *gate = a.gate.row<T>(r);
        T* h = hidden.row<T>(r);
        const auto body = [&](index_t c, auto... n) {
          (activate<T, kind()>(Vec::load(gate + c, n...)) * Vec::load(up + c, n...))
              .store(h + c, n...);
        };
        for_each_vec(hidden.shape[1], body, body);
      });
    });
  });
}

// In: dh. Out: h in `hidden`, the gradient of up in `dup` (which may be dh's own memory) and of
// gate.
void hidden_backward(const FfnBackward& a, const TensorView& dh, const TensorView& hidden,
                     const TensorView& dgate) {
  switch_float(a.x.dtype, [&](auto type) {
    switch_activation(a.activation, [&](auto kind) {
      using T = decltype(type);
      for_rows(a.x.shape[0], [&](index_t r) {
        const T* up = a.up.row<T>(r);
        T *d = dh.row<T>(r), *h = hidden.row<T>(r);
        if (a.gate_weight.defined()) {
          const T* gate = a.gate.row<T>(r);
          T* dg = dgate.row<T>(r);
          const auto body = [&](index_t c, auto... n) {
            const Vec u = Vec::load(up + c, n...), g = Vec::load(gate + c, n...),
                      e = Vec::load(d + c, n...);
            const Vec active = activate<T, kind()>(g);
            (active * u).store(h + c, n...);
            (e * active).store(d + c, n...);
            (e * u * activate_slope<T, kind()>(g)).store(dg + c, n...);
          };
          for_each_vec(hidden.shape[1], body, body);
        } else {
          const auto body = [&](index_t c, auto... n) {
            const Vec u = Vec::load(up + c, n...);
            activate<T, kind()>(u).store(h + c, n...);
            (Vec::load(d + c, n...) * activate_slope<T, kind()>(u)).store(d + c, n...);
          };
          for_each_vec(hidden.shape[1], body, body);
        }
      });
    });
  });
}

void add_bias(Gemm& g, const TensorView& bias) {
  if (bias.defined()) g.bias = bias.data, g.bias_dtype = bias.dtype;
}

}  // namespace

void ffn_forward(const FfnForward& a, Context& ctx) {
  const bool low = a.x.dtype == DType::bfloat16, gated = a.gate_weight.defined();
  const index_t C = a.x.shape[1], F = a.up_weight.shape[0];
  const TensorView hidden = scratch_like(a.up, ctx);
  Gemm up =
      product(matrix_of(a.x), matrix_of(a.up_weight).transposed(), gated ? a.up : hidden, C, low);
  add_bias(up, a.up_bias);
  if (!gated) {
    up.activation = a.activation;
    up.preactivation = a.up.data;
  }
  gemm(up, ctx);
  if (gated) {
    Gemm gate = product(matrix_of(a.x), matrix_of(a.gate_weight).transposed(), a.gate, C, low);
    add_bias(gate, a.gate_bias);
    gemm(gate, ctx);
    multiply_gate(a, hidden);
  }
  Gemm down = product(matrix_of(hidden), matrix_of(a.down_weight).transposed(), a.y, F, low);
  add_bias(down, a.down_bias);
  if (a.residual.defined())
    down.residual = a.residual.data, down.residual_stride = a.residual.strides[0];
  gemm(down, ctx);
}

void ffn_backward(const FfnBackward& a, Context& ctx) {
  const bool low = a.x.dtype == DType::bfloat16, gated = a.gate_weight.defined();
  const index_t N = a.x.shape[0], C = a.x.shape[1], F = a.up_weight.shape[0];
  const TensorView dh = scratch_like(a.up, ctx), hidden = scratch_like(a.up, ctx);
  const TensorView dgate = gated ? scratch_like(a.up, ctx) : TensorView();
  gemm(product(matrix_of(a.dy), matrix_of(a.down_weight), dh, C, low), ctx);
  hidden_backward(a, dh, hidden, dgate);
  const auto dweight = [&](const TensorView& out, const TensorView& left, const TensorView& right) {
    if (out.defined())
      gemm(product(matrix_of(left).transposed(), matrix_of(right), out, N, low), ctx);
  };
  const auto dbias = [&](const TensorView& out, const TensorView& rows) {
    if (out.defined()) column_sums(rows, out.as<float>(), ctx);
  };
  dweight(a.ddown_weight, a.dy, hidden);
  dbias(a.ddown_bias, a.dy);
  dweight(a.dup_weight, dh, a.x);
  dbias(a.dup_bias, dh);
  if (!gated) {
    gemm(product(matrix_of(dh), matrix_of(a.up_weight), a.dx, F, low), ctx);
    return;
  }
  dweight(a.dgate_weight, dgate, a.x);
  dbias(a.dgate_bias, dgate);
  // The two parts of dx meet in float32, in this order.
  const TensorView through_up(ctx.workspace().take<float>(N * C), DType::float32, {N, C});
  gemm(product(matrix_of(dh), matrix_of(a.up_weight), through_up, F, low), ctx);
  Gemm through_gate = product(matrix_of(dgate), matrix_of(a.gate_weight), through_up, F, low);
  through_gate.accumulate = true;
  gemm(through_gate, ctx);
  round_rows(through_up, a.dx);
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
