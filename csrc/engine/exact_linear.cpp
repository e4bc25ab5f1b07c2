#include "engine/exact_linear.h"

#include <algorithm>

namespace fusedlm::engine {

void exact_linear(const QuantizedLinear& a, Context& ctx) {
  const index_t M = a.x.shape[0], K = a.x.shape[1], N = a.y.shape[1];
  constexpr index_t kRows = QuantizedLinear::kStreamedRows + 1;
  if (M >= kRows) return quantized_linear(a, ctx);
  Workspace::Scope scope(ctx.workspace());
  const auto padded = [&](const TensorView& from, index_t columns) {
    const TensorView to(ctx.workspace().take<float>(kRows * columns), DType::float32,
                        {kRows, columns});
    std::fill_n(to.as<float>(), kRows * columns, 0.0f);
    for (index_t m = 0; m < M && from.defined(); ++m) {
      std::copy_n(from.row<float>(m), columns, to.row<float>(m));
    }
    return to;
  };
  QuantizedLinear more = a;
  more.x = padded(a.x, K);
  more.y = padded({}, N);
  if (a.residual.defined()) more.residual = padded(a.residual, N);
  quantized_linear(more, ctx);
  for (index_t m = 0; m < M; ++m) std::copy_n(more.y.row<float>(m), N, a.y.row<float>(m));
}

}  // namespace fusedlm::engine
