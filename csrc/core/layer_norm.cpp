#include "fusedlm/layer_norm.h"

#include "core/dispatch.h"
#include "core/linear_checks.h"

namespace fusedlm {

FUSEDLM_KERNEL(layer_norm_forward, LayerNormForward)
FUSEDLM_KERNEL(layer_norm_backward, LayerNormBackward)

void layer_norm_forward(const LayerNormForward& a, Context& ctx) {
  constexpr const char* op = "layer_norm";
  check::rows_input(op, "x", a.x);
  const index_t N = a.x.shape[0], C = a.x.shape[1];
  if (C == 0) check::fail(op, "x has shape " + shape_string(a.x) + ", expected C > 0");
  check::vector_of(op, "weight", a.weight, C, "x", check::floats_beside(a.x));
  if (a.bias.defined()) check::vector_of(op, "bias", a.bias, C, "x", {a.weight.dtype});
  check::rows_of(op, "y", a.y, a.x, C, "x");
  check::vector_of(op, "mean", a.mean, N, "x", {DType::float32});
  check::vector_of(op, "rstd", a.rstd, N, "x", {DType::float32});
  if (a.residual.defined()) {
    check::rows_of(op, "residual", a.residual, a.x, C, "x");
    check::rows_of(op, "sum", a.sum, a.x, C, "x");
  } else {
    check::absent(op, "sum", a.sum, "residual");
  }
  dispatch_layer_norm_forward(a, ctx);
}

void layer_norm_backward(const LayerNormBackward& a, Context& ctx) {
  constexpr const char* op = "layer_norm_backward";
  check::rows_input(op, "x", a.x);
  const index_t N = a.x.shape[0], C = a.x.shape[1];
  check::rows_of(op, "dy", a.dy, a.x, C, "x");
  check::vector_of(op, "weight", a.weight, C, "x", check::floats_beside(a.x));
  check::vector_of(op, "mean", a.mean, N, "x", {DType::float32});
  check::vector_of(op, "rstd", a.rstd, N, "x", {DType::float32});
  check::rows_of(op, "dx", a.dx, a.x, C, "x");
  check::vector_of(op, "dweight", a.dweight, C, "x", {DType::float32});
  check::vector_of(op, "dbias", a.dbias, C, "x", {DType::float32});
  if (a.dsum.defined()) check::rows_of(op, "dsum", a.dsum, a.x, C, "x");
  dispatch_layer_norm_backward(a, ctx);
}

}  // namespace fusedlm
