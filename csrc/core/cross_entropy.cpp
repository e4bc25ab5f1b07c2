#include "fusedlm/cross_entropy.h"

#include "core/cross_entropy_checks.h"
#include "core/dispatch.h"

namespace fusedlm {

FUSEDLM_KERNEL(cross_entropy_forward, CrossEntropyForward)
FUSEDLM_KERNEL(cross_entropy_backward, CrossEntropyBackward)

namespace {

template <class Args>
void check_common(const char* op, const Args& args) {
  check::rows_input(op, "logits", args.logits);
  const index_t N = args.logits.shape[0], V = args.logits.shape[1];
  if (V == 0) check::fail(op, "logits has shape " + shape_string(args.logits) + ", expected V > 0");
  if (args.class_weight.defined())
    check::vector_of(op, "class_weight", args.class_weight, V, "logits", {DType::float32});
  check::vector_of(op, "lse", args.lse, N, "logits", {DType::float32});
  const CrossEntropyOptions& o = args.options;
  check::cross_entropy_options(op, o);
  check::targets_of(op, args.targets, N, "logits", V, o.ignore_index);
}

index_t losses(const TensorView& logits, Reduction reduction) {
  return reduction == Reduction::none ? logits.shape[0] : 1;
}

}  // namespace

void cross_entropy_forward(const CrossEntropyForward& args, Context& ctx) {
  constexpr const char* op = "cross_entropy";
  check_common(op, args);
  check::vector_of(op, "loss", args.loss, losses(args.logits, args.options.reduction), "logits",
                   {DType::float32});
  dispatch_cross_entropy_forward(args, ctx);
}

void cross_entropy_backward(const CrossEntropyBackward& args, Context& ctx) {
  constexpr const char* op = "cross_entropy_backward";
  check_common(op, args);
  check::vector_of(op, "dloss", args.dloss, losses(args.logits, args.options.reduction), "logits",
                   {DType::float32});
  check::rows_of(op, "dlogits", args.dlogits, args.logits, args.logits.shape[1], "logits");
  dispatch_cross_entropy_backward(args, ctx);
}

}  // namespace fusedlm
