#pragma once
#include "fusedlm/device.h"
#include "fusedlm/weight.h"

namespace fusedlm {

/// Rows first, first + 1, ... of a matrix in any format, as float32.
inline void to_float32(const Weight& weight, index_t first, index_t count, float* out) {
  dequantize({weight, first, TensorView(out, DType::float32, {count, weight.cols})},
             Context::current());
}

}  // namespace fusedlm
