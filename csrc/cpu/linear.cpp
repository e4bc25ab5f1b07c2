// Linear layer: one product whose epilogue adds the bias, activates and adds the residual while the
// tile is in L1. The backward forms dpre = dy * activation'(preactivation) once, then dx = dpre W,
// dW = dpre^T x and dbias = column sums of dpre.

#include "fusedlm/linear.h"

#include "cpu/activation.h"
#include "cpu/gemm_views.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

void slope_times(const LinearBackward& a, const TensorView& dpre) {
  const index_t O = dpre.shape[1];
  constexpr index_t kRows = 16;
  switch_float(a.x.dtype, [&](auto type) {
    switch_activation(a.activation, [&](auto kind) {
      using T = decltype(type);
      parallel_for(ceil_div(dpre.shape[0], kRows), [&](index_t task, int) {
        const index_t end = min_of(dpre.shape[0], (task + 1) * kRows);
        for (index_t r = task * kRows; r < end; ++r) {
          const T *dy = a.dy.row<T>(r), *pre = a.preactivation.row<T>(r);
          T* out = dpre.row<T>(r);
          const auto body = [&](index_t c, auto... n) {
            const Vec slope = activate_slope<T, kind()>(Vec::load(pre + c, n...));
            (Vec::load(dy + c, n...) * slope).store(out + c, n...);
          };
          for_each_vec(O, body, body);
        }
      });
    });
  });
}

}  // namespace

void linear_forward(const LinearForward& a, Context& ctx) {
  Gemm g = product(matrix_of(a.x), matrix_of(a.weight).transposed(), a.y, a.x.shape[1],
                   a.x.dtype == DType::bfloat16);
  g.activation = a.activation;
  add_bias(g, a.bias);
  if (a.residual.defined()) g.residual = a.residual.data, g.residual_stride = a.residual.strides[0];
  if (a.preactivation.defined()) g.preactivation = a.preactivation.data;
  gemm(g, ctx);
}

void linear_backward(const LinearBackward& a, Context& ctx) {
  const index_t N = a.x.shape[0], O = a.weight.shape[0];
  const bool low = a.x.dtype == DType::bfloat16;
  TensorView dpre = a.dy;
  if (a.activation != Activation::none) {
    dpre = TensorView(ctx.workspace().take_bytes(N * O * size_of(a.x.dtype)), a.x.dtype, {N, O});
    slope_times(a, dpre);
  }
  if (a.dx.defined()) gemm(product(matrix_of(dpre), matrix_of(a.weight), a.dx, O, low), ctx);
  if (a.dweight.defined()) {
    gemm(product(matrix_of(dpre).transposed(), matrix_of(a.x), a.dweight, N, low), ctx);
  }
  if (a.dbias.defined()) column_sums(dpre, a.dbias.as<float>(), ctx);
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
