#include "fusedlm/linear_cross_entropy.h"

#include "core/dispatch.h"
#include "core/linear_checks.h"

namespace fusedlm {

FUSEDLM_KERNEL(linear_cross_entropy, LinearCrossEntropy)

namespace {

constexpr const char* kOp = "linear_cross_entropy";

void targets_in_range(const LinearCrossEntropy& args) {
  if (!check::readable(args.targets)) return;
  const int64_t* targets = args.targets.as<int64_t>();
  const index_t V = args.weight.shape[0];
  for (index_t n = 0; n < args.targets.shape[0]; ++n) {
    if ((targets[n] < 0 || targets[n] >= V) && targets[n] != args.ignore_index) {
      check::fail(kOp, "targets[" + std::to_string(n) + "] is " + std::to_string(targets[n]) +
                           ", expected 0 to " + std::to_string(V - 1) + " or ignore_index " +
                           std::to_string(args.ignore_index));
    }
  }
}

}  // namespace

void linear_cross_entropy(const LinearCrossEntropy& args, Context& ctx) {
  check::rows_input(kOp, "x", args.x);
  const index_t N = args.x.shape[0], C = args.x.shape[1];
  check::weight_of(kOp, "weight", args.weight, -1, "", C, "x", check::floats_beside(args.x));
  const index_t V = args.weight.shape[0];
  if (V == 0 || C == 0)
    check::fail(kOp, "weight has shape " + shape_string(args.weight) + ", expected V, C > 0");
  check::vector_of(kOp, "targets", args.targets, N, "x", {DType::int64});
  if (args.bias.defined())
    check::vector_of(kOp, "bias", args.bias, V, "weight", check::floats_beside(args.x));
  if (args.class_weight.defined()) {
    check::vector_of(kOp, "class_weight", args.class_weight, V, "weight", {DType::float32});
  }
  const bool each = args.reduction == Reduction::none;
  check::vector_of(kOp, "loss", args.loss, each ? N : 1, "x", {DType::float32});
  const bool gradients = args.dx.defined() || args.dweight.defined() || args.dbias.defined();
  if (each && gradients) check::vector_of(kOp, "row_grad", args.row_grad, N, "x", {DType::float32});
  if (args.dx.defined()) check::rows_of(kOp, "dx", args.dx, args.x, C, "x");
  if (args.dweight.defined())
    check::weight_of(kOp, "dweight", args.dweight, V, "weight", C, "x",
                     {DType::float32, args.weight.dtype});
  if (args.dbias.defined())
    check::vector_of(kOp, "dbias", args.dbias, V, "weight", {DType::float32});
  if (!(args.label_smoothing >= 0 && args.label_smoothing <= 1)) {
    check::fail(kOp,
                "label_smoothing is " + std::to_string(args.label_smoothing) + ", expected 0 to 1");
  }
  if (!(args.softcap >= 0))
    check::fail(kOp, "softcap is " + std::to_string(args.softcap) + ", expected at least 0");
  if (!(args.z_loss >= 0))
    check::fail(kOp, "z_loss is " + std::to_string(args.z_loss) + ", expected at least 0");
  targets_in_range(args);
  dispatch_linear_cross_entropy(args, ctx);
}

}  // namespace fusedlm
