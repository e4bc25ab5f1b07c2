#include "fusedlm/rope.h"

#include "bindings/binding.h"

namespace fusedlm::bindings {

static const Registration rope_registration([](pybind11::module_& m) {
  m.def("rope", [](TensorView x, TensorView cos, TensorView sin, TensorView positions, TensorView y,
                   bool interleaved, bool inverse) {
    run(rope, Rope{x, cos, sin, positions, y, interleaved, inverse});
  });
});

}  // namespace fusedlm::bindings
