#include "fusedlm/roof.h"

#include "bindings/binding.h"

namespace fusedlm::bindings {

static const Registration roof([](pybind11::module_& m) {
  m.def("roof_measure", [](bool bfloat16, double seconds) {
    double flops = 0;
    run(roof_measure, RoofMeasure{bfloat16 ? DType::bfloat16 : DType::float32, seconds, &flops});
    return flops;
  });
});

}  // namespace fusedlm::bindings
