#include "fusedlm/rms_norm.h"

#include "core/check.h"
#include "core/dispatch.h"

namespace fusedlm {

FUSEDLM_KERNEL(rms_norm_forward, RmsNormForward)
FUSEDLM_KERNEL(rms_norm_backward, RmsNormBackward)

namespace {

void rows_like(const char* op, const char* argument, const TensorView& view,
               const TensorView& like) {
  check::tensor(op, argument, view, 2, {like.dtype});
  check::dim(op, argument, view, 0, like.shape[0], "x");
  check::dim(op, argument, view, 1, like.shape[1], "x");
  check::last_contiguous(op, argument, view);
}

void vector_like(const char* op, const char* argument, const TensorView& view, index_t size,
                 const check::DTypes& dtypes) {
  check::tensor(op, argument, view, 1, dtypes);
  check::dim(op, argument, view, 0, size, "x");
  check::contiguous(op, argument, view);
}

}  // namespace

void rms_norm_forward(const RmsNormForward& args, Context& ctx) {
  constexpr const char* op = "rms_norm";
  check::tensor(op, "x", args.x, 2, check::floats(args.x));
  check::last_contiguous(op, "x", args.x);
  if (args.x.shape[1] == 0)
    check::fail(op, "x has shape " + shape_string(args.x) + ", expected C > 0");
  vector_like(op, "weight", args.weight, args.x.shape[1], check::floats_beside(args.x));
  rows_like(op, "y", args.y, args.x);
  vector_like(op, "rstd", args.rstd, args.x.shape[0], {DType::float32});
  if (args.residual.defined()) {
    rows_like(op, "residual", args.residual, args.x);
    rows_like(op, "sum", args.sum, args.x);
  }
  dispatch_rms_norm_forward(args, ctx);
}

void rms_norm_backward(const RmsNormBackward& args, Context& ctx) {
  constexpr const char* op = "rms_norm_backward";
  check::tensor(op, "x", args.x, 2, check::floats(args.x));
  check::last_contiguous(op, "x", args.x);
  rows_like(op, "dy", args.dy, args.x);
  vector_like(op, "weight", args.weight, args.x.shape[1], check::floats_beside(args.x));
  vector_like(op, "rstd", args.rstd, args.x.shape[0], {DType::float32});
  rows_like(op, "dx", args.dx, args.x);
  vector_like(op, "dweight", args.dweight, args.x.shape[1], {DType::float32});
  if (args.dsum.defined()) rows_like(op, "dsum", args.dsum, args.x);
  dispatch_rms_norm_backward(args, ctx);
}

}  // namespace fusedlm
