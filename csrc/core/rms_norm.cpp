#include "fusedlm/rms_norm.h"

#include "core/dispatch.h"
#include "core/linear_checks.h"

namespace fusedlm {

FUSEDLM_KERNEL(rms_norm_forward, RmsNormForward)
FUSEDLM_KERNEL(rms_norm_backward, RmsNormBackward)

void rms_norm_forward(const RmsNormForward& args, Context& ctx) {
  constexpr const char* op = "rms_norm";
  check::rows_input(op, "x", args.x);
  const index_t C = args.x.shape[1];
  if (C == 0) check::fail(op, "x has shape " + shape_string(args.x) + ", expected C > 0");
  check::vector_of(op, "weight", args.weight, C, "x", check::floats_beside(args.x));
  check::rows_of(op, "y", args.y, args.x, C, "x");
  check::vector_of(op, "rstd", args.rstd, args.x.shape[0], "x", {DType::float32});
  if (args.residual.defined()) {
    check::rows_of(op, "residual", args.residual, args.x, C, "x");
    check::rows_of(op, "sum", args.sum, args.x, C, "x");
  } else {
    check::absent(op, "sum", args.sum, "residual");
  }
  dispatch_rms_norm_forward(args, ctx);
}

void rms_norm_backward(const RmsNormBackward& args, Context& ctx) {
  constexpr const char* op = "rms_norm_backward";
  check::rows_input(op, "x", args.x);
  const index_t C = args.x.shape[1];
  check::rows_of(op, "dy", args.dy, args.x, C, "x");
  check::vector_of(op, "weight", args.weight, C, "x", check::floats_beside(args.x));
  check::vector_of(op, "rstd", args.rstd, args.x.shape[0], "x", {DType::float32});
  check::rows_of(op, "dx", args.dx, args.x, C, "x");
  check::vector_of(op, "dweight", args.dweight, C, "x", {DType::float32});
  if (args.dsum.defined()) check::rows_of(op, "dsum", args.dsum, args.x, C, "x");
  dispatch_rms_norm_backward(args, ctx);
}

}  // namespace fusedlm
