#include "fusedlm/linear_cross_entropy.h"

#include "bindings/binding.h"

namespace fusedlm::bindings {

static const Registration linear_cross_entropy_registration([](pybind11::module_& m) {
  m.def(
      "linear_cross_entropy",
      [](TensorView x, TensorView weight, TensorView bias, TensorView targets,
         TensorView class_weight, TensorView row_grad, TensorView loss, TensorView dx,
         TensorView dweight, TensorView dbias, const std::string& reduction, index_t ignore_index,
         float label_smoothing, float z_loss, float softcap) {
        Reduction kind;
        if (reduction == "mean") {
          kind = Reduction::mean;
        } else if (reduction == "sum") {
          kind = Reduction::sum;
        } else if (reduction == "none") {
          kind = Reduction::none;
        } else {
          throw InvalidArgument("linear_cross_entropy: reduction is '" + reduction +
                                "', expected mean, sum or none");
        }
        run(linear_cross_entropy,
            LinearCrossEntropy{x, weight, bias, targets, class_weight, row_grad, loss, dx, dweight,
                               dbias, kind, ignore_index, label_smoothing, z_loss, softcap});
      });
});

}  // namespace fusedlm::bindings
