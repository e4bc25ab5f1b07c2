#include "fusedlm/embedding.h"

#include "bindings/binding.h"

namespace fusedlm::bindings {

static const Registration embedding([](pybind11::module_& m) {
  m.def("embedding_forward", [](TensorView tokens, TensorView weight, TensorView positions,
                                TensorView position_weight, TensorView out) {
    run(embedding_forward, EmbeddingForward{tokens, weight, positions, position_weight, out});
  });
  m.def("embedding_backward",
        [](TensorView dout, TensorView tokens, TensorView dweight, index_t padding_idx) {
          run(embedding_backward, EmbeddingBackward{dout, tokens, dweight, padding_idx});
        });
});

}  // namespace fusedlm::bindings
