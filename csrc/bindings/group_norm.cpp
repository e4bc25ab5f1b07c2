#include "fusedlm/group_norm.h"

#include "bindings/binding.h"

namespace fusedlm::bindings {

static const Registration group_norm([](pybind11::module_& m) {
  m.def("group_norm_forward", [](TensorView x, TensorView weight, TensorView bias, TensorView y,
                                 TensorView mean, TensorView rstd, index_t groups, float eps) {
    run(group_norm_forward, GroupNormForward{x, weight, bias, y, mean, rstd, groups, eps});
  });
  m.def("group_norm_backward",
        [](TensorView dy, TensorView x, TensorView weight, TensorView mean, TensorView rstd,
           TensorView dx, TensorView dweight, TensorView dbias, index_t groups) {
          run(group_norm_backward,
              GroupNormBackward{dy, x, weight, mean, rstd, dx, dweight, dbias, groups});
        });
});

}  // namespace fusedlm::bindings
