#include "fusedlm/quantized_linear.h"

#include "core/dispatch.h"
#include "core/linear_checks.h"
#include "core/weight_checks.h"

namespace fusedlm {

FUSEDLM_CPU_KERNEL(quantized_linear, QuantizedLinear)

void quantized_linear(const QuantizedLinear& a, Context& ctx) {
  constexpr const char* op = "quantized_linear";
  check::rows_input(op, "x", a.x);
  if (a.count < 1 || a.count > QuantizedLinear::kMostWeights) {
    check::fail(op, "count is " + std::to_string(a.count) + ", expected 1 to " +
                        std::to_string(QuantizedLinear::kMostWeights));
  }
  if (a.gated && a.count != 2) {
    check::fail(op, "gated takes 2 weights, got " + std::to_string(a.count));
  }
  index_t columns = 0;
  for (int i = 0; i < a.count; ++i) {
    const std::string name = "weights[" + std::to_string(i) + "]";
    const Weight& weight = a.weights[i];
    check::weight(op, name.c_str(), weight);
    if (weight.cols != a.x.shape[1]) {
      check::fail(op, name + " has " + std::to_string(weight.cols) + " columns, expected " +
                          std::to_string(a.x.shape[1]) + " as in x " + shape_string(a.x));
    }
    if (a.bias[i].defined()) {
      check::vector_of(op, ("bias[" + std::to_string(i) + "]").c_str(), a.bias[i], weight.rows,
                       name.c_str(), {DType::float32});
    }
    columns += weight.rows;
  }
  if (a.gated) {
    if (a.weights[0].rows != a.weights[1].rows) {
      check::fail(op, "gated: weights[1] has " + std::to_string(a.weights[1].rows) +
                          " rows, expected " + std::to_string(a.weights[0].rows) +
                          " as weights[0]");
    }
    columns = a.weights[0].rows;
  }
  check::tensor(op, "y", a.y, 2, {DType::float32, DType::bfloat16});
  check::dim(op, "y", a.y, 0, a.x.shape[0], "x");
  check::dim(op, "y", a.y, 1, columns, "the weights");
  check::last_contiguous(op, "y", a.y);
  if (a.residual.defined()) check::rows_of(op, "residual", a.residual, a.y, columns, "y");
  dispatch_quantized_linear(a, ctx);
}

}  // namespace fusedlm
