#include "fusedlm/linear.h"

#include "core/dispatch.h"
#include "core/linear_checks.h"

namespace fusedlm {

FUSEDLM_KERNEL(linear_forward, LinearForward)
FUSEDLM_KERNEL(linear_backward, LinearBackward)

void linear_forward(const LinearForward& a, Context& ctx) {
  constexpr const char* op = "linear";
  check::rows_input(op, "x", a.x);
  check::weight_of(op, "weight", a.weight, -1, "", a.x.shape[1], "x", check::floats_beside(a.x));
  const index_t outputs = a.weight.shape[0];
  if (a.bias.defined())
    check::vector_of(op, "bias", a.bias, outputs, "weight", check::floats_beside(a.x));
  check::rows_of(op, "y", a.y, a.x, outputs, "weight");
  if (a.residual.defined()) check::rows_of(op, "residual", a.residual, a.x, outputs, "weight");
  if (a.preactivation.defined()) {
    check::rows_of(op, "preactivation", a.preactivation, a.x, outputs, "weight");
    if (a.preactivation.strides[0] != a.y.strides[0])
      check::fail(op, "preactivation has other strides than y");
  }
  dispatch_linear_forward(a, ctx);
}

void linear_backward(const LinearBackward& a, Context& ctx) {
  constexpr const char* op = "linear_backward";
  check::rows_input(op, "x", a.x);
  check::weight_of(op, "weight", a.weight, -1, "", a.x.shape[1], "x", check::floats_beside(a.x));
  const index_t outputs = a.weight.shape[0];
  check::rows_of(op, "dy", a.dy, a.x, outputs, "weight");
  if (a.activation != Activation::none) {
    check::rows_of(op, "preactivation", a.preactivation, a.x, outputs, "weight");
  }
  if (a.dx.defined()) check::rows_of(op, "dx", a.dx, a.x, a.x.shape[1], "x");
  if (a.dweight.defined()) {
    check::weight_of(op, "dweight", a.dweight, outputs, "weight", a.x.shape[1], "x",
                     check::floats_beside(a.x));
  }
  if (a.dbias.defined())
    check::vector_of(op, "dbias", a.dbias, outputs, "weight", {DType::float32});
  dispatch_linear_backward(a, ctx);
}

}  // namespace fusedlm
