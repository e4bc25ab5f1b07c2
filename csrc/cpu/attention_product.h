#pragma once
// The micro-kernel of attention. A tile of scores is held transposed, keys down and queries across,
// so that the softmax of a query runs down a lane and needs no sum across a vector, and so that the
// weights of a pair of keys are, as they are computed, the B operand of the next product: nothing
// is transposed between the two products.

#include <utility>

#include "cpu/gemm_pack.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

// Rows of a block of sums: 8 x 2 vectors hide the latency of a multiply-add (4 to 6 cycles on one
// or two pipes) and divide the usual head widths and tiles evenly; with 16 registers 4 x 2 are
// left.
constexpr index_t kBlockRows = kRegisters == 32 ? 8 : 4;

/// The A operand of a block: where lane k of row i lies.
///   rows    [row][lane], as the tensor itself: data[i * row_step + k]
///   panels  [lane][kNR], as pack_panels<kNR> writes: data[k * kNR + i]
enum class Layout { rows, panels };

/// What the sums start from: 0, what is there, or what is there times a factor for each column.
enum class Start { zero, add, scale };

namespace detail {

template <class Lanes, Layout layout, int MR>
void multiply_block(const uint32_t* a, index_t row_step, const uint32_t* b, index_t depth,
                    float* sums, index_t stride, Start start, const float* factor) {
  Vec acc[MR][2];
  if (start != Start::zero) {
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      acc[i][0] = Vec::load(sums + i * stride);
      acc[i][1] = Vec::load(sums + i * stride + Vec::size);
    }
    if (start == Start::scale) {
      const Vec f0 = Vec::load(factor), f1 = Vec::load(factor + Vec::size);
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) {
        acc[i][0] = acc[i][0] * f0;
        acc[i][1] = acc[i][1] * f1;
      }
    }
  }
  for (index_t k = 0; k < depth; ++k, b += kNR) {
    const typename Lanes::B b0 = Lanes::load(b), b1 = Lanes::load(b + Vec::size);
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      const uint32_t* at = layout == Layout::rows ? a + i * row_step + k : a + k * kNR + i;
      const typename Lanes::B ai = Lanes::broadcast(at);
      acc[i][0] = Lanes::multiply_add(ai, b0, acc[i][0]);
      acc[i][1] = Lanes::multiply_add(ai, b1, acc[i][1]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
    acc[i][0].store(sums + i * stride);
    acc[i][1].store(sums + i * stride + Vec::size);
  }
}

using BlockKernel = void (*)(const uint32_t*, index_t, const uint32_t*, index_t, float*, index_t,
                             Start, const float*);
template <class Lanes, Layout layout, int... MR>
BlockKernel block_kernel_from(index_t rows, std::integer_sequence<int, MR...>) {
  static constexpr BlockKernel table[] = {multiply_block<Lanes, layout, MR + 1>...};
  return table[rows - 1];
}

template <Layout layout>
BlockKernel block_kernel_for(bool pairs, index_t rows) {
  constexpr auto all = std::make_integer_sequence<int, kBlockRows>{};
#if defined(FUSEDLM_ISA_AVX512_BF16)
  if (pairs) return block_kernel_from<PairLanes, layout>(rows, all);
#endif
  (void)pairs;
  return block_kernel_from<FloatLanes, layout>(rows, all);
}

}  // namespace detail

/// sums [rows][kNR], rows `stride` apart, = (start) + A B over `depth` lanes; A in rows, `a_step`
/// lanes apart; B one panel.
inline void multiply_rows(bool pairs, const uint32_t* a, index_t a_step, const uint32_t* b,
                          index_t depth, index_t rows, float* sums, index_t stride,
                          Start start = Start::zero) {
  for (index_t i = 0; i < rows; i += kBlockRows) {
    const index_t some = min_of(kBlockRows, rows - i);
    detail::block_kernel_for<Layout::rows>(pairs, some)(a + i * a_step, a_step, b, depth,
                                                        sums + i * stride, stride, start, nullptr);
  }
}

/// The same with A in panels of kNR rows, each `panel_step` lanes after the one before.
inline void multiply_panels(bool pairs, const uint32_t* a, index_t panel_step, const uint32_t* b,
                            index_t depth, index_t rows, float* sums, index_t stride,
                            Start start = Start::zero, const float* factor = nullptr) {
  for (index_t i = 0; i < rows; i += kBlockRows) {
    const index_t some = min_of(kBlockRows, rows - i);
    detail::block_kernel_for<Layout::panels>(pairs, some)(
        a + i / kNR * panel_step + i % kNR, 1, b, depth, sums + i * stride, stride, start, factor);
  }
}

#if defined(FUSEDLM_ISA_AVX512_BF16)
/// Lanes of two rows as bfloat16 pairs: lane i = (low[i], high[i]).
FUSEDLM_VEC void store_pairs(Vec low, Vec high, uint32_t* out) {
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high.v, low.v);
  _mm512_storeu_si512(out, detail::interleave_halves(both));
}
/// Two vectors of one row as consecutive bfloat16.
FUSEDLM_VEC void store_halves(Vec first, Vec second, uint32_t* out) {
  _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(second.v, first.v));
}
#endif

/// to[c][r] = from[r][c] for r < rows, c < columns, both multiples of Vec::size.
inline void transpose(const float* from, index_t from_stride, index_t rows, index_t columns,
                      float* to, index_t to_stride) {
#if defined(FUSEDLM_VEC_AVX512)
  for (index_t r = 0; r < rows; r += 16) {
    for (index_t c = 0; c < columns; c += 16) {
      __m512i part[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) part[i] = _mm512_loadu_si512(from + (r + i) * from_stride + c);
      detail::transpose_16x16(part);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + (c + i) * to_stride + r, part[i]);
    }
  }
#else
  for (index_t r = 0; r < rows; ++r) {
    for (index_t c = 0; c < columns; ++c) to[c * to_stride + r] = from[r * from_stride + c];
  }
#endif
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
