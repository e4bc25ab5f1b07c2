#include "fusedlm/linear_cross_entropy.h"

#include "core/cross_entropy_checks.h"
#include "core/dispatch.h"

namespace fusedlm {

FUSEDLM_KERNEL(linear_cross_entropy, LinearCrossEntropy)

void linear_cross_entropy(const LinearCrossEntropy& args, Context& ctx) {
  constexpr const char* op = "linear_cross_entropy";
  check::rows_input(op, "x", args.x);
  const index_t N = args.x.shape[0], C = args.x.shape[1];
  check::weight_of(op, "weight", args.weight, -1, "", C, "x", check::floats_beside(args.x));
  const index_t V = args.weight.shape[0];
  if (V == 0 || C == 0)
    check::fail(op, "weight has shape " + shape_string(args.weight) + ", expected V, C > 0");
  if (args.bias.defined())
    check::vector_of(op, "bias", args.bias, V, "weight", check::floats_beside(args.x));
  if (args.class_weight.defined()) {
    check::vector_of(op, "class_weight", args.class_weight, V, "weight", {DType::float32});
  }
  const bool each = args.options.reduction == Reduction::none;
  check::vector_of(op, "loss", args.loss, each ? N : 1, "x", {DType::float32});
  const bool gradients = args.dx.defined() || args.dweight.defined() || args.dbias.defined();
  if (each && gradients) check::vector_of(op, "row_grad", args.row_grad, N, "x", {DType::float32});
  if (args.dx.defined()) check::rows_of(op, "dx", args.dx, args.x, C, "x");
  if (args.dweight.defined())
    check::weight_of(op, "dweight", args.dweight, V, "weight", C, "x",
                     {DType::float32, args.weight.dtype});
  if (args.dbias.defined())
    check::vector_of(op, "dbias", args.dbias, V, "weight", {DType::float32});
  check::cross_entropy_options(op, args.options);
  check::targets_of(op, args.targets, N, "x", V, args.options.ignore_index);
  dispatch_linear_cross_entropy(args, ctx);
}

}  // namespace fusedlm
