#pragma once
// Packing into panels: W columns of a [K, X] matrix laid out [K][W], zero-padded. In the float32
// form a 32-bit lane is one float; in the bfloat16 form it is the pair (k, k + 1).

#include <utility>

#include "cpu/gemm.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

// A tile of kMR x kNR sums fills the registers: 14 x 2 of 32, 6 x 2 of 16, which leaves room for the
// two vectors of B and one of A.
constexpr index_t kMR = kRegisters == 32 ? 14 : 6;
constexpr index_t kNR = 2 * Vec::size;

// How a lane is loaded and multiplied: pairs of bfloat16, or float32.
#if defined(FUSEDLM_ISA_AVX512_BF16)
struct PairLanes {
  using B = __m512bh;
  FUSEDLM_VEC static B load(const uint32_t* p) { return (__m512bh)_mm512_loadu_si512(p); }
  FUSEDLM_VEC static B broadcast(const uint32_t* p) {
    return (__m512bh)_mm512_set1_epi32(static_cast<int>(*p));
  }
  FUSEDLM_VEC static Vec multiply_add(B a, B b, Vec c) { return _mm512_dpbf16_ps(c.v, a, b); }
};
#endif
struct FloatLanes {
  using B = Vec;
  FUSEDLM_VEC static B load(const uint32_t* p) {
    return Vec::load(reinterpret_cast<const float*>(p));
  }
  FUSEDLM_VEC static B broadcast(const uint32_t* p) { return Vec(__builtin_bit_cast(float, *p)); }
  FUSEDLM_VEC static Vec multiply_add(B a, B b, Vec c) { return fma(a, b, c); }
};

/// Whether products are taken two at a time, in bfloat16.
inline bool multiplies_pairs([[maybe_unused]] bool low_precision) {
#if defined(FUSEDLM_ISA_AVX512_BF16)
  return low_precision;
#else
  return false;
#endif
}

namespace detail {

// The lane at `from`: a float32, or the bfloat16 pair of it and its neighbour in K, `k_stride` on.
template <class T>
FUSEDLM_VEC uint32_t lane_of(const T* from, index_t k_stride, bool pairs, bool has_next) {
  if (!pairs) return __builtin_bit_cast(uint32_t, to_float(*from));
  const uint32_t low = to_bfloat16(to_float(*from)).bits;
  return has_next ? low | uint32_t{to_bfloat16(to_float(from[k_stride])).bits} << 16 : low;
}

#if defined(FUSEDLM_VEC_AVX512)
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

// A panel whose K is contiguous in memory: 16 x 16 lanes at a time are transposed in registers.
template <class T, index_t W>
void pack_transposing(const T* base, index_t column_stride, bool pairs, index_t K, index_t columns,
                      uint32_t* out) {
  const index_t step = pairs ? 32 : 16;
  index_t k = 0;
  for (; k + step <= K; k += step, out += 16 * W) {
    for (index_t c = 0; c < W; c += 16) {
      __m512i rows[16];
      if (c + 16 <= columns) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
          rows[i] = lanes_along_k(base + (c + i) * column_stride + k, pairs);
        }
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
          rows[i] = c + i < columns ? lanes_along_k(base + (c + i) * column_stride + k, pairs)
                                    : _mm512_setzero_si512();
        }
      }
      transpose_16x16(rows);
      const __mmask16 mask = Vec::mask(min_of(16, W - c));
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_mask_storeu_epi32(out + i * W + c, mask, rows[i]);
    }
  }
  for (; k < K; k += pairs ? 2 : 1, out += W) {
    for (index_t c = 0; c < W; ++c) {
      out[c] = c < columns ? lane_of(base + c * column_stride + k, 1, pairs, k + 1 < K) : 0;
    }
  }
}

// Lanes of 16 columns of rows k and, in pairs, k + 1.
template <class T>
FUSEDLM_VEC __m512i lanes_of_rows(const T* row, const T* next, bool pairs, index_t n) {
  if (!pairs) return _mm512_castps_si512(Vec::load(row, n).v);
  if constexpr (sizeof(T) == 2) {
    const __mmask16 mask = Vec::mask(n);
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, row));
    const __m512i high =
        next ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, next)) : __m512i{};
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
  } else {
    const __m512i low = _mm512_cvtepu16_epi32(Vec::load(row, n).rounded());
    const __m512i high = next ? _mm512_cvtepu16_epi32(Vec::load(next, n).rounded()) : __m512i{};
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
  }
}

// (low half, high half) of 16-bit lanes -> low[0], high[0], low[1], high[1], ...
FUSEDLM_VEC __m512i interleave_halves(__m512i both) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), both);
}

// One step of K of one panel whose columns are contiguous in memory; `full`: whole vectors from `row` on
// stay within the row of the matrix.
template <class T, index_t W>
FUSEDLM_VEC void pack_step(const T* row, const T* next, bool pairs, index_t columns,
                           [[maybe_unused]] bool full, uint32_t* out) {
  if constexpr (sizeof(T) == 2 && W == 32) {
    if (pairs && columns == W && next) {
      alignas(64) static constexpr uint16_t kLow[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                                        37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                        11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
      const __m512i low = _mm512_load_si512(kLow),
                    high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
      const __m512i a = _mm512_loadu_si512(row), b = _mm512_loadu_si512(next);
      _mm512_storeu_si512(out, _mm512_permutex2var_epi16(a, low, b));
      _mm512_storeu_si512(out + 16, _mm512_permutex2var_epi16(a, high, b));
      return;
    }
  }
  if constexpr (sizeof(T) == 2 && W < 16) {
    if (pairs && full && next) {  // the lanes behind W belong to the next panel and are not stored
      const __m512i both = _mm512_inserti64x4(
          _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row))),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(next)), 1);
      _mm512_mask_storeu_epi32(out, Vec::mask(W), interleave_halves(both));
      return;
    }
  }
  for (index_t c = 0; c < W; c += 16) {
    const index_t n = max_of(0, min_of(16, columns - c));
    const __m512i lanes = lanes_of_rows(row + c, next ? next + c : nullptr, pairs, n);
    _mm512_mask_storeu_epi32(out + c, Vec::mask(min_of(16, W - c)), lanes);
  }
}
#else
template <class T, index_t W>
void pack_transposing(const T* base, index_t column_stride, bool, index_t K, index_t columns,
                      uint32_t* out) {
  // Blocks of K keep the lines of each column in L1 until all their elements are used.
  constexpr index_t kBlock = 16;
  for (index_t first = 0; first < K; first += kBlock) {
    const index_t end = min_of(K, first + kBlock);
    for (index_t c = 0; c < W; ++c) {
      const T* from = base + c * column_stride;
      for (index_t k = first; k < end; ++k) {
        out[k * W + c] = c < columns ? lane_of(from + k, 1, false, false) : 0;
      }
    }
  }
}

template <class T, index_t W>
FUSEDLM_VEC void pack_step(const T* row, const T*, bool, index_t columns, bool, uint32_t* out) {
  for (index_t c = 0; c < W; c += Vec::size) {
    const index_t n = max_of(0, min_of(Vec::size, columns - c));
    const Vec lanes = n == Vec::size ? Vec::load(row + c) : n > 0 ? Vec::load(row + c, n) : Vec();
    float* to = reinterpret_cast<float*>(out) + c;
    if (c + Vec::size <= W) {
      lanes.store(to);
    } else {
      lanes.store(to, W - c);
    }
  }
}
#endif

template <class T, index_t W>
void pack_typed(const Matrix& m, bool pairs, index_t k0, index_t K, index_t c0, index_t columns,
                uint32_t* out, index_t panel_step) {
  const T* base = static_cast<const T*>(m.data) + k0 * m.row_stride + c0 * m.col_stride;
  const index_t step = pairs ? 2 : 1;
  if (m.row_stride == 1) {
    for (index_t c = 0; c < columns; c += W, out += panel_step) {
      pack_transposing<T, W>(base + c * m.col_stride, m.col_stride, pairs, K,
                             min_of(W, columns - c), out);
    }
  } else if (m.col_stride == 1) {
    // All panels advance together: a row's cache lines are read once.
    for (index_t k = 0; k < K; k += step) {
      const T* row = base + k * m.row_stride;
      const T* next = k + 1 < K ? row + m.row_stride : nullptr;
      uint32_t* to = out + k / step * W;
      for (index_t c = 0; c < columns; c += W, to += panel_step) {
        pack_step<T, W>(row + c, next ? next + c : nullptr, pairs, min_of(W, columns - c),
                        c + 16 <= columns, to);
      }
    }
  } else {
    for (index_t c = 0; c < columns; c += W, out += panel_step) {
      for (index_t k = 0; k < K; k += step) {
        for (index_t i = 0; i < W; ++i) {
          const T* from = base + k * m.row_stride + (c + i) * m.col_stride;
          out[k / step * W + i] =
              c + i < columns ? lane_of(from, m.row_stride, pairs, k + 1 < K) : 0;
        }
      }
    }
  }
}

}  // namespace detail

/// Rows [k0, k0 + K) and columns [c0, c0 + columns) of m, in panels of W columns, each `panel_step`
/// lanes after the one before.
template <index_t W>
void pack_panels(const Matrix& m, bool pairs, index_t k0, index_t K, index_t c0, index_t columns,
                 uint32_t* out, index_t panel_step) {
  if (m.dtype == DType::float32) {
    detail::pack_typed<float, W>(m, pairs, k0, K, c0, columns, out, panel_step);
  } else {
    detail::pack_typed<bfloat16, W>(m, pairs, k0, K, c0, columns, out, panel_step);
  }
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
