#pragma once
#include <array>

#include "fusedlm/activation.h"
#include "fusedlm/weight.h"

namespace fusedlm {

/// Products with weights in any format, for inference: y = activation(x [w0; w1; w2]^T + bias) + residual,
/// or, if `gated`, y = activation(x w0^T + bias0) * (x w1^T + bias1) + residual.
///   x         [M, K]  float32 or bfloat16, rows contiguous
///   weights   each [N_i, K], the first `count` defined; formats may differ
///   bias      each [N_i] float32, or undefined
///   y         [M, N]  float32 or bfloat16, rows contiguous; N is the sum of N_i (gated: N_0 = N_1)
///   residual  [M, N]  like y, which it may be; or undefined
/// Up to kStreamedRows rows, weights are read once, as they lie, and each row of y is the same bits as
/// if it were alone. More rows go through a packed matrix multiply. Blocks and int8 are multiplied with x
/// rounded to 8 bits in groups of 32 (of few rows to 16 bits where elements are large next to their
/// row's) with the instruction set avx512_bf16, which asks for AVX-512 VNNI (the result is off by 0.5 %
/// of its norm), unless x has more than kStreamedRows rows of float32: then, and elsewhere, as the other
/// formats are everywhere, in float32 (few rows, or a float32 x) or bfloat16 (many rows of it).
/// A row of x that is not finite makes no finite result, and touches no other row. On the CPU alone.
/// Throws as every op (errors.h).
struct QuantizedLinear {
  static constexpr index_t kMostWeights = 3;
  /// So many rows of x share one reading of the weights (decoding several sequences).
  static constexpr index_t kStreamedRows = 16;

  TensorView x;
  std::array<Weight, kMostWeights> weights;
  std::array<TensorView, kMostWeights> bias{};
  int count = 1;
  TensorView residual{}, y;
  Activation activation = Activation::none;
  bool gated = false;
};
void quantized_linear(const QuantizedLinear& args, Context& ctx);

}  // namespace fusedlm
