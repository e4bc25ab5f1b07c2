#pragma once
// Packing of one panel: `width` columns of a [K, X] matrix laid out [K][width], zero-padded. In the
// float32 form a 32-bit lane is one float; in the bfloat16 form it is the pair (k, k + 1).

#include <utility>

#include "cpu/gemm.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

// A tile of kMR x kNR sums fills the registers: 14 x 2 of 32 (AVX-512), 6 x 2 of 16 (AVX2, SSE2),
// which leaves room for the two vectors of B and one of A.
#if defined(FUSEDLM_HAS_AVX512)
constexpr index_t kMR = 14;
#else
constexpr index_t kMR = 6;
#endif
constexpr index_t kNR = 2 * Vec::size;

namespace detail {

FUSEDLM_VEC float element(const Matrix& m, index_t r, index_t c) {
  const index_t at = r * m.row_stride + c * m.col_stride;
  return m.dtype == DType::float32 ? static_cast<const float*>(m.data)[at]
                                   : to_float(static_cast<const bfloat16*>(m.data)[at]);
}

FUSEDLM_VEC uint32_t lane(const Matrix& m, bool pairs, index_t k, index_t end, index_t c) {
  if (!pairs) return __builtin_bit_cast(uint32_t, element(m, k, c));
  const uint32_t low = to_bfloat16(element(m, k, c)).bits;
  return k + 1 < end ? low | uint32_t{to_bfloat16(element(m, k + 1, c)).bits} << 16 : low;
}

#if defined(FUSEDLM_HAS_AVX512)
// Rows become columns: out[j] lane i = rows[i] lane j.
FUSEDLM_VEC void transpose_16x16(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
    t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
    r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
    r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
  }
}

// Sixteen lanes along K of one column whose K is contiguous.
template <class T>
FUSEDLM_VEC __m512i lanes_along_k(const T* p, bool pairs) {
  if (!pairs) return _mm512_castps_si512(Vec::load(p).v);
  if constexpr (sizeof(T) == 2) {
    return _mm512_loadu_si512(p);
  } else {
    return _mm512_inserti64x4(_mm512_castsi256_si512(Vec::load(p).rounded()),
                              Vec::load(p + 16).rounded(), 1);
  }
}

template <class T, index_t W>
void pack_transposing(const T* base, index_t column_stride, bool pairs, index_t K, index_t columns,
                      uint32_t* out, const Matrix& m, index_t k0, index_t c0) {
  const index_t step = pairs ? 32 : 16;
  index_t k = 0;
  for (; k + step <= K; k += step, out += 16 * W) {
    for (index_t c = 0; c < W; c += 16) {
      __m512i rows[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        rows[i] = c + i < columns ? lanes_along_k(base + (c + i) * column_stride + k, pairs)
                                  : _mm512_setzero_si512();
      }
      transpose_16x16(rows);
      const __mmask16 mask = Vec::mask(min_of(16, W - c));
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_mask_storeu_epi32(out + i * W + c, mask, rows[i]);
    }
  }
  for (; k < K; k += pairs ? 2 : 1, out += W) {
    for (index_t c = 0; c < W; ++c)
      out[c] = c < columns ? lane(m, pairs, k0 + k, k0 + K, c0 + c) : 0;
  }
}

template <class T>
FUSEDLM_VEC __m512i half_lanes(const T* p, index_t n) {
  if constexpr (sizeof(T) == 2) {
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(Vec::mask(n), p));
  } else {
    return _mm512_cvtepu16_epi32(Vec::load(p, n).rounded());
  }
}

template <class T, index_t W>
void pack_rows(const T* base, index_t row_stride, bool pairs, index_t K, index_t columns,
               uint32_t* out) {
  for (index_t k = 0; k < K; k += pairs ? 2 : 1, out += W) {
    const T* row = base + k * row_stride;
    for (index_t c = 0; c < W; c += 16) {
      const index_t n = max_of(0, min_of(16, columns - c));
      __m512i lanes;
      if (!pairs) {
        lanes = _mm512_castps_si512(Vec::load(row + c, n).v);
      } else {
        lanes = half_lanes(row + c, n);
        if (k + 1 < K) {
          lanes =
              _mm512_or_si512(lanes, _mm512_slli_epi32(half_lanes(row + row_stride + c, n), 16));
        }
      }
      _mm512_mask_storeu_epi32(out + c, Vec::mask(min_of(16, W - c)), lanes);
    }
  }
}
#endif

}  // namespace detail

/// Columns [c0, c0 + columns) and rows [k0, k0 + K) of m into out.
template <index_t W>
void pack_panel(const Matrix& m, bool pairs, index_t k0, index_t K, index_t c0, index_t columns,
                uint32_t* out) {
#if defined(FUSEDLM_HAS_AVX512)
  const index_t at = k0 * m.row_stride + c0 * m.col_stride;
  const auto packed = [&](auto type) {
    using T = decltype(type);
    const T* base = static_cast<const T*>(m.data) + at;
    if (m.row_stride == 1) {
      detail::pack_transposing<T, W>(base, m.col_stride, pairs, K, columns, out, m, k0, c0);
    } else {
      detail::pack_rows<T, W>(base, m.row_stride, pairs, K, columns, out);
    }
  };
  if (m.row_stride == 1 || m.col_stride == 1) {
    return m.dtype == DType::float32 ? packed(float{}) : packed(bfloat16{});
  }
#endif
  const index_t step = pairs ? 2 : 1;
  // Blocks of K keep the lines of each column in L1 until all their elements are used.
  constexpr index_t kBlock = 16;
  for (index_t first = 0; first < K; first += kBlock * step) {
    const index_t end = min_of(K, first + kBlock * step);
    for (index_t c = 0; c < W; ++c) {
      for (index_t k = first; k < end; k += step) {
        out[k / step * W + c] = c < columns ? detail::lane(m, pairs, k0 + k, k0 + K, c0 + c) : 0;
      }
    }
  }
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
