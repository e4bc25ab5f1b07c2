#include "fusedlm/roof.h"

#include "bindings/binding.h"

namespace fusedlm::bindings {

static const Registration roof([](pybind11::module_& m) {
  m.def("roof_measure", [](bool bfloat16, double seconds) {
    double flops = 0;
    run(roof_measure, RoofMeasure{bfloat16 ? DType::bfloat16 : DType::float32, seconds, &flops});
    return flops;
  });
  m.def("bandwidth_measure", [](index_t bytes, double seconds) {
    double rate = 0;
    run(bandwidth_measure, BandwidthMeasure{bytes, seconds, &rate});
    return rate;
  });
});

}  // namespace fusedlm::bindings
