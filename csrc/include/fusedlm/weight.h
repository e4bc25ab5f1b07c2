#pragma once
// Matrices of weights as inference keeps them: in the file's own bytes, quantised or not.

#include <string>

#include "fusedlm/device.h"
#include "fusedlm/tensor.h"

namespace fusedlm {

/// float32, float16, bfloat16: rows of elements. int8: rows of signed bytes, with one float32 scale a
/// row. The others are GGUF's blocks, byte for byte (32 weights a block; q4_k and q6_k: 256), with
/// float16 scales inside:
///   q8_0  scale, 32 signed bytes                     34 bytes
///   q4_0  scale, 32 nibbles less 8                   18
///   q4_1  scale, minimum, 32 nibbles                 20
///   q4_k  scale and minimum of 8 sub-blocks of 32   144
///   q6_k  scale of 16 sub-blocks of 16              210
enum class WeightFormat : uint8_t {
  float32,
  float16,
  bfloat16,
  int8,
  q8_0,
  q4_0,
  q4_1,
  q4_k,
  q6_k,
};

/// "float32", "q4_1", ...
const char* name_of(WeightFormat format) noexcept;
/// Throws InvalidArgument for a name that is none.
WeightFormat weight_format_from_name(const std::string& name);
/// Weights in a block; a row of a matrix is whole blocks. 1 for the formats without blocks.
index_t block_size(WeightFormat format) noexcept;
/// Bytes of a row of `cols` weights, a whole number of blocks.
index_t row_bytes(WeightFormat format, index_t cols) noexcept;

/// A non-owning matrix [rows, cols], rows dense one after another, at any alignment (a mapped file).
struct Weight {
  const void* data = nullptr;
  const float* scales = nullptr;  ///< [rows], int8 alone
  WeightFormat format = WeightFormat::float32;
  index_t rows = 0, cols = 0;

  FUSEDLM_INLINE bool defined() const noexcept { return data != nullptr; }
};

/// out [count, cols] float32 or bfloat16, rows contiguous: rows first, first + 1, ... of `weight`.
/// On the CPU alone. Throws as every op (errors.h), InvalidArgument for rows beyond those of `weight` too.
struct Dequantize {
  Weight weight;
  index_t first = 0;
  TensorView out;
};
void dequantize(const Dequantize& args, Context& ctx);

/// The inverse, to the nearest that the format holds (q8_0, q4_0, q4_1 and the K formats as llama.cpp
/// defines their scales, int8 by the largest magnitude of a row).
///   x [rows, cols] float32 or bfloat16, rows contiguous; cols a whole number of blocks
///   data    row_bytes(format, cols) * rows bytes, written; scales [rows], written, int8 alone
/// On the CPU alone. Throws as every op (errors.h), and InvalidArgument where x is not finite or more than the
/// format's scales can hold; then part of `data` may have been written.
struct Quantize {
  TensorView x;
  WeightFormat format = WeightFormat::q8_0;
  void* data = nullptr;
  float* scales = nullptr;
};
void quantize(const Quantize& args, Context& ctx);

}  // namespace fusedlm
