#include "fusedlm/ffn.h"

#include "bindings/activation.h"
#include "bindings/binding.h"

namespace fusedlm::bindings {

static const Registration ffn([](pybind11::module_& m) {
  m.def("ffn_forward",
        [](TensorView x, TensorView up_weight, TensorView up_bias, TensorView gate_weight,
           TensorView gate_bias, TensorView down_weight, TensorView down_bias, TensorView residual,
           TensorView up, TensorView gate, TensorView y, const std::string& activation) {
          run(ffn_forward,
              FfnForward{x, up_weight, up_bias, gate_weight, gate_bias, down_weight, down_bias,
                         residual, up, gate, y, activation_from_name("ffn", activation)});
        });
  m.def("ffn_backward", [](TensorView dy, TensorView x, TensorView up_weight,
                           TensorView gate_weight, TensorView down_weight, TensorView up,
                           TensorView gate, TensorView dx, TensorView dup_weight,
                           TensorView dup_bias, TensorView dgate_weight, TensorView dgate_bias,
                           TensorView ddown_weight, TensorView ddown_bias,
                           const std::string& activation) {
    run(ffn_backward, FfnBackward{dy, x, up_weight, gate_weight, down_weight, up, gate, dx,
                                  dup_weight, dup_bias, dgate_weight, dgate_bias, ddown_weight,
                                  ddown_bias, activation_from_name("ffn_backward", activation)});
  });
});

}  // namespace fusedlm::bindings
