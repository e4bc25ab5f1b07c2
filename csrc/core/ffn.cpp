#include "fusedlm/ffn.h"

#include "core/dispatch.h"
#include "core/linear_checks.h"

namespace fusedlm {

FUSEDLM_KERNEL(ffn_forward, FfnForward)
FUSEDLM_KERNEL(ffn_backward, FfnBackward)

void ffn_forward(const FfnForward& a, Context& ctx) {
  constexpr const char* op = "ffn";
  check::rows_input(op, "x", a.x);
  const index_t C = a.x.shape[1];
  check::weight_of(op, "up_weight", a.up_weight, -1, "", C, "x", check::floats_beside(a.x));
  const index_t F = a.up_weight.shape[0];
  check::weight_of(op, "down_weight", a.down_weight, C, "x", F, "up_weight",
                   check::floats_beside(a.x));
  if (a.up_bias.defined())
    check::vector_of(op, "up_bias", a.up_bias, F, "up_weight", check::floats_beside(a.x));
  if (a.down_bias.defined())
    check::vector_of(op, "down_bias", a.down_bias, C, "x", check::floats_beside(a.x));
  check::rows_of(op, "up", a.up, a.x, F, "up_weight");
  check::contiguous(op, "up", a.up);
  if (a.gate_weight.defined()) {
    check::weight_of(op, "gate_weight", a.gate_weight, F, "up_weight", C, "x",
                     check::floats_beside(a.x));
    if (a.gate_bias.defined())
      check::vector_of(op, "gate_bias", a.gate_bias, F, "up_weight", check::floats_beside(a.x));
    check::rows_of(op, "gate", a.gate, a.x, F, "up_weight");
    check::contiguous(op, "gate", a.gate);
  } else {
    check::absent(op, "gate_bias", a.gate_bias, "gate_weight");
    check::absent(op, "gate", a.gate, "gate_weight");
  }
  if (a.residual.defined()) check::rows_of(op, "residual", a.residual, a.x, C, "x");
  check::rows_of(op, "y", a.y, a.x, C, "x");
  dispatch_ffn_forward(a, ctx);
}

void ffn_backward(const FfnBackward& a, Context& ctx) {
  constexpr const char* op = "ffn_backward";
  check::rows_input(op, "x", a.x);
  const index_t C = a.x.shape[1];
  check::weight_of(op, "up_weight", a.up_weight, -1, "", C, "x", check::floats_beside(a.x));
  const index_t F = a.up_weight.shape[0];
  check::weight_of(op, "down_weight", a.down_weight, C, "x", F, "up_weight",
                   check::floats_beside(a.x));
  check::rows_of(op, "dy", a.dy, a.x, C, "x");
  check::rows_of(op, "dx", a.dx, a.x, C, "x");
  check::rows_of(op, "up", a.up, a.x, F, "up_weight");
  check::contiguous(op, "up", a.up);
  if (a.gate_weight.defined()) {
    check::weight_of(op, "gate_weight", a.gate_weight, F, "up_weight", C, "x",
                     check::floats_beside(a.x));
    check::rows_of(op, "gate", a.gate, a.x, F, "up_weight");
    check::contiguous(op, "gate", a.gate);
  } else {
    check::absent(op, "gate", a.gate, "gate_weight");
    check::absent(op, "dgate_weight", a.dgate_weight, "gate_weight");
    check::absent(op, "dgate_bias", a.dgate_bias, "gate_weight");
  }
  const auto dweight = [&](const char* name, const TensorView& view, index_t rows,
                           const char* rows_as, index_t columns, const char* columns_as) {
    if (view.defined()) {
      check::weight_of(op, name, view, rows, rows_as, columns, columns_as,
                       check::floats_beside(a.x));
    }
  };
  const auto dbias = [&](const char* name, const TensorView& view, index_t size, const char* as) {
    if (view.defined()) check::vector_of(op, name, view, size, as, {DType::float32});
  };
  dweight("dup_weight", a.dup_weight, F, "up_weight", C, "x");
  dweight("dgate_weight", a.dgate_weight, F, "up_weight", C, "x");
  dweight("ddown_weight", a.ddown_weight, C, "x", F, "up_weight");
  dbias("dup_bias", a.dup_bias, F, "up_weight");
  dbias("dgate_bias", a.dgate_bias, F, "up_weight");
  dbias("ddown_bias", a.ddown_bias, C, "x");
  dispatch_ffn_backward(a, ctx);
}

}  // namespace fusedlm
