#include "fusedlm/linear_cross_entropy.h"

#include "bindings/binding.h"
#include "bindings/reduction.h"

namespace fusedlm::bindings {

static const Registration linear_cross_entropy_registration([](pybind11::module_& m) {
  m.def("linear_cross_entropy",
        [](TensorView x, TensorView weight, TensorView bias, TensorView targets,
           TensorView class_weight, TensorView row_grad, TensorView loss, TensorView dx,
           TensorView dweight, TensorView dbias, const std::string& reduction, index_t ignore_index,
           float label_smoothing, float z_loss, float softcap) {
          const CrossEntropyOptions options{reduction_from_name("linear_cross_entropy", reduction),
                                            ignore_index, label_smoothing, z_loss, softcap};
          run(linear_cross_entropy,
              LinearCrossEntropy{x, weight, bias, targets, class_weight, row_grad, loss, dx,
                                 dweight, dbias, options});
        });
});

}  // namespace fusedlm::bindings
