#include "fusedlm/attention.h"

#include "bindings/binding.h"

namespace fusedlm::bindings {

static const Registration attention([](pybind11::module_& m) {
  pybind11::class_<AttentionOptions>(m, "AttentionOptions")
      .def(pybind11::init([](bool causal, index_t window, float scale, float softcap,
                             float dropout_p, uint64_t seed, TensorView mask,
                             TensorView key_padding_mask, TensorView alibi_slopes,
                             TensorView cu_seqlens_q, TensorView cu_seqlens_k,
                             TensorView kv_lengths, TensorView block_table) {
        return AttentionOptions{causal,       window,       scale,        softcap,
                                dropout_p,    seed,         mask,         key_padding_mask,
                                alibi_slopes, cu_seqlens_q, cu_seqlens_k, kv_lengths,
                                block_table};
      }));
  m.def("attention_forward", [](TensorView query, TensorView key, TensorView value, TensorView out,
                                TensorView lse, const AttentionOptions& options) {
    run(attention_forward, AttentionForward{query, key, value, out, lse, options});
  });
  m.def("attention_backward",
        [](TensorView dout, TensorView query, TensorView key, TensorView value, TensorView out,
           TensorView lse, TensorView dquery, TensorView dkey, TensorView dvalue,
           const AttentionOptions& options) {
          run(attention_backward,
              AttentionBackward{dout, query, key, value, out, lse, dquery, dkey, dvalue, options});
        });
});

}  // namespace fusedlm::bindings
