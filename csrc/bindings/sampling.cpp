#include "fusedlm/sampling.h"

#include "bindings/binding.h"

namespace fusedlm::bindings {

static const Registration sampling([](pybind11::module_& m) {
  m.def("sample", [](TensorView logits, TensorView seen, TensorView rows, TensorView tokens,
                     TensorView log_probs, double temperature, index_t top_k, double top_p,
                     double min_p, double repetition_penalty, uint64_t seed, uint32_t step) {
    run(sample, Sample{logits, seen, rows, tokens, log_probs, temperature, top_k, top_p, min_p,
                       repetition_penalty, seed, step});
  });
});

}  // namespace fusedlm::bindings
