// The smallest one: causal attention over float32 arrays, without a copy.

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
  attention_forward({heads(q),
                     heads(k),
                     heads(v),
                     heads(out),
                     TensorView(lse.data(), DType::float32, {B, H, T}),
                     {.causal = true, .scale = 0.125f}},
                    Context::current());
  std::printf("%s: out[0] = %.3f\n", name_of(current_isa()), out[0]);
}
