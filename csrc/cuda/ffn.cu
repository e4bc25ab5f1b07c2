// Feed-forward block. The up product writes its preactivation and, in the same epilogue, the
// activated h. A gated block has the epilogue of its gate product read `up` and write h, so no pass
// of its own. In the backward the epilogue of dh = dy W_down makes h again and the gradients of up
// and gate, and dh itself is never written; dx of a gated block is one product over both pairs of
// factors, summed in registers.

#include "cuda/gemm.h"
#include "fusedlm/ffn.h"

namespace fusedlm::FUSEDLM_DEVICE {

void ffn_forward(const FfnForward& a, Context& ctx) {
  const DType dtype = a.x.dtype;
  const bool gated = a.gate_weight.defined();
  const TensorView x = operand(a.x, dtype, ctx);
  const TensorView hidden = scratch_rows(dtype, a.up.shape[0], a.up.shape[1], ctx);
  gemm({.form = Form::rows_by_rows,
        .dtype = dtype,
        .a = x,
        .b = a.up_weight,
        .out = gated ? a.up : hidden,
        .bias = a.up_bias,
        .preactivation = gated ? TensorView() : a.up,
        .activation = gated ? Activation::none : a.activation},
       ctx);
  if (gated) {
    gemm({.form = Form::rows_by_rows,
          .dtype = dtype,
          .a = x,
          .b = a.gate_weight,
          .out = hidden,
          .bias = a.gate_bias,
          .preactivation = a.gate,
          .up = a.up,
          .finish = Finish::gate,
          .activation = a.activation},
         ctx);
  }
  gemm({.form = Form::rows_by_rows,
        .dtype = dtype,
        .a = hidden,
        .b = a.down_weight,
        .out = a.y,
        .bias = a.down_bias,
        .residual = a.residual},
       ctx);
}

void ffn_backward(const FfnBackward& a, Context& ctx) {
  const DType dtype = a.x.dtype;
  const bool gated = a.gate_weight.defined();
  const index_t N = a.x.shape[0], F = a.up_weight.shape[0];
  const TensorView x = operand(a.x, dtype, ctx), dy = operand(a.dy, dtype, ctx);
  const TensorView dup = scratch_rows(dtype, N, F, ctx), hidden = scratch_rows(dtype, N, F, ctx);
  const TensorView dgate = gated ? scratch_rows(dtype, N, F, ctx) : TensorView();
  gemm({.form = Form::rows_by_columns,
        .dtype = dtype,
        .a = dy,
        .b = a.down_weight,
        .out = dup,
        .up = a.up,
        .gate = gated ? a.gate : TensorView(),
        .hidden = hidden,
        .dgate = dgate,
        .finish = gated ? Finish::gated_slope : Finish::slope,
        .activation = a.activation},
       ctx);
  const auto parameters = [&](const TensorView& dweight, const TensorView& dbias,
                              const TensorView& left, const TensorView& right) {
    if (dweight.defined()) {
      gemm(
          {.form = Form::columns_by_columns, .dtype = dtype, .a = left, .b = right, .out = dweight},
          ctx);
    }
    if (dbias.defined()) column_sums(left, dbias.as<float>(), ctx);
  };
  parameters(a.ddown_weight, a.ddown_bias, dy, hidden);
  parameters(a.dup_weight, a.dup_bias, dup, x);
  if (gated) parameters(a.dgate_weight, a.dgate_bias, dgate, x);
  gemm({.form = Form::rows_by_columns,
        .dtype = dtype,
        .a = dup,
        .b = a.up_weight,
        .a2 = dgate,
        .b2 = a.gate_weight,
        .out = a.dx},
       ctx);
}

}  // namespace fusedlm::FUSEDLM_DEVICE
