#include "fusedlm/linear.h"

#include "bindings/activation.h"
#include "bindings/binding.h"

namespace fusedlm::bindings {

static const Registration linear([](pybind11::module_& m) {
  m.def("linear_forward",
        [](TensorView x, TensorView weight, TensorView bias, TensorView residual, TensorView y,
           TensorView preactivation, const std::string& activation) {
          run(linear_forward, LinearForward{x, weight, bias, residual, y, preactivation,
                                            activation_from_name("linear", activation)});
        });
  m.def("linear_backward",
        [](TensorView dy, TensorView x, TensorView weight, TensorView preactivation, TensorView dx,
           TensorView dweight, TensorView dbias, const std::string& activation) {
          run(linear_backward, LinearBackward{dy, x, weight, preactivation, dx, dweight, dbias,
                                              activation_from_name("linear_backward", activation)});
        });
});

}  // namespace fusedlm::bindings
