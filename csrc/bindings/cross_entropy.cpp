#include "fusedlm/cross_entropy.h"

#include "bindings/binding.h"
#include "bindings/reduction.h"

namespace fusedlm::bindings {

static const Registration cross_entropy_registration([](pybind11::module_& m) {
  m.def("cross_entropy_forward",
        [](TensorView logits, TensorView targets, TensorView class_weight, TensorView loss,
           TensorView lse, const std::string& reduction, index_t ignore_index,
           float label_smoothing, float z_loss, float softcap) {
          run(cross_entropy_forward,
              CrossEntropyForward{logits,
                                  targets,
                                  class_weight,
                                  loss,
                                  lse,
                                  {reduction_from_name("cross_entropy", reduction), ignore_index,
                                   label_smoothing, z_loss, softcap}});
        });
  m.def("cross_entropy_backward",
        [](TensorView dloss, TensorView logits, TensorView targets, TensorView class_weight,
           TensorView lse, TensorView dlogits, const std::string& reduction, index_t ignore_index,
           float label_smoothing, float z_loss, float softcap) {
          run(cross_entropy_backward,
              CrossEntropyBackward{dloss,
                                   logits,
                                   targets,
                                   class_weight,
                                   lse,
                                   dlogits,
                                   {reduction_from_name("cross_entropy", reduction), ignore_index,
                                    label_smoothing, z_loss, softcap}});
        });
});

}  // namespace fusedlm::bindings
