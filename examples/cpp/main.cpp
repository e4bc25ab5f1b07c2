// Causal attention from plain C++: cmake -S . -B build -DCMAKE_PREFIX_PATH=<where fusedlm is
// installed>
#include <fusedlm/attention.h>

#include <cstdio>
#include <vector>

int main() {
  using namespace fusedlm;
  const index_t B = 1, T = 128, H = 4, D = 64;
  std::vector<float> q(B * T * H * D, 0.1f), k = q, v(q.size(), 2.0f), out(q.size()),
                                             lse(B * H * T);
  const auto heads = [&](std::vector<float>& x) {
    return TensorView(x.data(), DType::float32, {B, T, H, D});
  };
  AttentionOptions options{.causal = true, .scale = 0.125f};
  TensorView lse_view(lse.data(), DType::float32, {B, H, T});
  attention_forward({heads(q), heads(k), heads(v), heads(out), lse_view, options},
                    Context::current());
  std::printf("%s: out[0] = %.3f\n", name_of(current_isa()), out[0]);
  return out[0] > 1.99f && out[0] < 2.01f ? 0 : 1;
}
