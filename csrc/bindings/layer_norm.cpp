#include "fusedlm/layer_norm.h"

#include "bindings/binding.h"

namespace fusedlm::bindings {

static const Registration layer_norm([](pybind11::module_& m) {
  m.def("layer_norm_forward", [](TensorView x, TensorView residual, TensorView weight,
                                 TensorView bias, TensorView y, TensorView sum, TensorView mean,
                                 TensorView rstd, float eps) {
    run(layer_norm_forward, LayerNormForward{x, residual, weight, bias, y, sum, mean, rstd, eps});
  });
  m.def("layer_norm_backward",
        [](TensorView dy, TensorView x, TensorView weight, TensorView mean, TensorView rstd,
           TensorView dsum, TensorView dx, TensorView dweight, TensorView dbias) {
          run(layer_norm_backward,
              LayerNormBackward{dy, x, weight, mean, rstd, dsum, dx, dweight, dbias});
        });
});

}  // namespace fusedlm::bindings
