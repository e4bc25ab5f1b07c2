#include "fusedlm/adamw.h"

#include "bindings/binding.h"

namespace fusedlm::bindings {

using Views = std::vector<TensorView>;

static const Registration adamw([](pybind11::module_& m) {
  m.def("grad_norm", [](Views grads, TensorView result) {
    run(grad_norm, GradNorm{std::move(grads), nullptr, result});
  });
  m.def("adamw_step", [](Views params, Views grads, Views exp_avgs, Views exp_avg_sqs,
                         std::vector<double> lrs, std::vector<double> weight_decays,
                         std::vector<index_t> steps, double beta1, double beta2, double eps,
                         double clip_scale) {
    run(adamw_step, AdamwStep{std::move(params), std::move(grads), std::move(exp_avgs),
                              std::move(exp_avg_sqs), std::move(lrs), std::move(weight_decays),
                              std::move(steps), beta1, beta2, eps, clip_scale});
  });
});

}  // namespace fusedlm::bindings
