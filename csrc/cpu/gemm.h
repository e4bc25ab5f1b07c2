#pragma once
// Matrix multiply for every op that needs one: C = epilogue(A * B), any strides, packed panels.

#include "cpu/vec.h"
#include "fusedlm/activation.h"
#include "fusedlm/device.h"
#include "fusedlm/weight.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

/// A matrix by element (r, c) at data[r * row_stride + c * col_stride].
struct Matrix {
  const void* data;
  DType dtype;  // float32 or bfloat16
  index_t row_stride, col_stride;
  Matrix transposed() const { return {data, dtype, col_stride, row_stride}; }
};

/// C [M, N] = activation(A [M, K] * B [K, N] + bias [N]) * factor [M, N] + residual [M, N]   (+ C before,
/// with accumulate). A and B may be float32 or bfloat16 in any mix. Products are taken in bfloat16 (sums
/// in float32) where `low_precision` and the machine has the instructions, else in float32. For
/// each element the sum over K runs in one fixed order, whatever the number of threads.
struct Gemm {
  index_t M, N, K;
  Matrix A, B;
  const uint32_t* packed_a = nullptr;  // A, as pack_rows packed it
  const Weight* weight = nullptr;      // if given, B^T: panels are dequantised as they are packed
  void* C;                             // rows contiguous
  DType c_dtype;
  index_t c_stride;
  bool low_precision = false;
  bool accumulate =
      false;  // C must be float32, and there is no bias, activation, factor or residual
  const void* bias = nullptr;
  DType bias_dtype = DType::float32;
  Activation activation = Activation::none;
  const void* factor = nullptr;  // dtype and contiguity as C, which it may be
  index_t factor_stride = 0;
  const void* residual = nullptr;  // the same
  index_t residual_stride = 0;
  void* preactivation =
      nullptr;  // if given, A * B + bias is written here too; dtype and stride as C
};

/// A for several products of weights with it, in memory of the workspace; null where gemm packs by itself.
const uint32_t* pack_rows(const Gemm& args, Context& ctx);

/// Runs on all threads; takes its packing buffers from the workspace, inside a scope of its own.
void gemm(const Gemm& args, Context& ctx);

}  // namespace fusedlm::cpu::FUSEDLM_ISA
