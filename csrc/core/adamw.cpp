#include "fusedlm/adamw.h"

#include "core/check.h"
#include "core/dispatch.h"

namespace fusedlm {

FUSEDLM_KERNEL(grad_norm, GradNorm)
FUSEDLM_KERNEL(adamw_step, AdamwStep)

namespace {

std::string indexed(const char* list, size_t i) {
  return std::string(list) + "[" + std::to_string(i) + "]";
}

void dense(const char* op, const std::string& name, const TensorView& view,
           const check::DTypes& dtypes) {
  check::tensor(op, name.c_str(), view, view.ndim, dtypes);
  check::contiguous(op, name.c_str(), view);
}

void same_shape(const char* op, const std::string& name, const TensorView& view,
                const TensorView& param, size_t i) {
  bool same = view.ndim == param.ndim;
  for (int d = 0; same && d < view.ndim; ++d) same = view.shape[d] == param.shape[d];
  if (!same) {
    check::fail(op, name + " has shape " + shape_string(view) + ", expected " +
                        shape_string(param) + " as in " + indexed("params", i));
  }
}

void same_count(const char* op, const char* name, size_t count, size_t expected) {
  if (count == expected) return;
  check::fail(op, std::string(name) + " has " + std::to_string(count) + " entries, expected " +
                      std::to_string(expected) + " as in params");
}

}  // namespace

void grad_norm(const GradNorm& args, Context& ctx) {
  for (size_t i = 0; i < args.grads.size(); ++i) {
    dense("grad_norm", indexed("grads", i), args.grads[i], check::floats(args.grads[i]));
  }
  if (args.result.defined()) check::tensor("grad_norm", "result", args.result, 0, {DType::float64});
  dispatch_grad_norm(args, ctx);
}

void adamw_step(const AdamwStep& args, Context& ctx) {
  constexpr const char* op = "adamw_step_";
  const size_t count = args.params.size();
  same_count(op, "grads", args.grads.size(), count);
  same_count(op, "exp_avgs", args.exp_avgs.size(), count);
  same_count(op, "exp_avg_sqs", args.exp_avg_sqs.size(), count);
  same_count(op, "lrs", args.lrs.size(), count);
  same_count(op, "weight_decays", args.weight_decays.size(), count);
  same_count(op, "steps", args.steps.size(), count);
  for (size_t i = 0; i < count; ++i) {
    dense(op, indexed("params", i), args.params[i], check::floats(args.params[i]));
    dense(op, indexed("grads", i), args.grads[i], check::floats_beside(args.params[i]));
    dense(op, indexed("exp_avgs", i), args.exp_avgs[i], {DType::float32});
    dense(op, indexed("exp_avg_sqs", i), args.exp_avg_sqs[i], {DType::float32});
    same_shape(op, indexed("grads", i), args.grads[i], args.params[i], i);
    same_shape(op, indexed("exp_avgs", i), args.exp_avgs[i], args.params[i], i);
    same_shape(op, indexed("exp_avg_sqs", i), args.exp_avg_sqs[i], args.params[i], i);
    if (args.steps[i] < 1) {
      check::fail(op, indexed("steps", i) + " is " + std::to_string(args.steps[i]) +
                          ", expected at least 1");
    }
  }
  dispatch_adamw_step(args, ctx);
}

}  // namespace fusedlm
