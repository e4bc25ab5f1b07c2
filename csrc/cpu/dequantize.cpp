// Weights as floats again, block by block; rounded to bfloat16 from a piece of a row that is in L1.

#include "cpu/weight_blocks.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

void dequantize_rows(const Weight& w, index_t first, index_t rows, index_t first_col, index_t cols,
                     void* out, DType dtype, index_t stride) {
  constexpr index_t kPiece = 256;  // a block of any format
  const index_t bytes = row_bytes(w.format, w.cols);
  switch_format(w.format, [&](auto format) {
    constexpr WeightFormat F = decltype(format)::value;
    alignas(64) float piece[kPiece];
    for (index_t r = 0; r < rows; ++r) {
      const uint8_t* row = row_of(w, first + r, bytes);
      const float scale = w.scales ? w.scales[first + r] : 1.0f;
      if (dtype == DType::float32) {
        dequantize_part<F>(row, scale, first_col, cols, static_cast<float*>(out) + r * stride);
        continue;
      }
      bfloat16* to = static_cast<bfloat16*>(out) + r * stride;
      for (index_t c = 0; c < cols; c += kPiece) {
        const index_t count = min_of(kPiece, cols - c);
        dequantize_part<F>(row, scale, first_col + c, count, piece);
        convert_row(piece, count, to + c);
      }
    }
  });
}

void dequantize(const Dequantize& a, Context&) {
  constexpr index_t kTaskElements = 16384;  // about 5 us
  const index_t count = a.out.shape[0], cols = a.weight.cols;
  const index_t rows = max_of(1, kTaskElements / cols);
  parallel_for(ceil_div(count, rows), [&](index_t task, int) {
    const index_t first = task * rows;
    void* out = static_cast<char*>(a.out.data) + first * a.out.strides[0] * size_of(a.out.dtype);
    dequantize_rows(a.weight, a.first + first, min_of(rows, count - first), 0, cols, out,
                    a.out.dtype, a.out.strides[0]);
  });
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
