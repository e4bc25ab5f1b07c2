#pragma once
#include "fusedlm/quantized_linear.h"

namespace fusedlm::engine {

/// quantized_linear with float32 products throughout, for comparisons: few rows go the way of many. Each
/// row of y is the same bits however many come together. x, residual and y float32.
void exact_linear(const QuantizedLinear& args, Context& ctx);

}  // namespace fusedlm::engine
