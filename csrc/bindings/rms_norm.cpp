#include "fusedlm/rms_norm.h"

#include "bindings/binding.h"

namespace fusedlm::bindings {

static const Registration rms_norm([](pybind11::module_& m) {
  m.def("rms_norm_forward", [](TensorView x, TensorView residual, TensorView weight, TensorView y,
                               TensorView sum, TensorView rstd, float eps) {
    run(rms_norm_forward, RmsNormForward{x, residual, weight, y, sum, rstd, eps});
  });
  m.def("rms_norm_backward", [](TensorView dy, TensorView x, TensorView weight, TensorView rstd,
                                TensorView dsum, TensorView dx, TensorView dweight) {
    run(rms_norm_backward, RmsNormBackward{dy, x, weight, rstd, dsum, dx, dweight});
  });
});

}  // namespace fusedlm::bindings
