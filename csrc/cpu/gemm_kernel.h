#pragma once
// The micro-kernels: a tile of rows x kNR sums, held in registers over the whole depth of two
// packed panels.

#include "cpu/gemm_pack.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace detail {

template <int MR>
FUSEDLM_VEC void multiply_float(const float* a, const float* b, index_t K, float* tile) {
  Vec acc[MR][2];
  for (index_t k = 0; k < K; ++k, a += kMR, b += kNR) {
    const Vec b0 = Vec::load(b), b1 = Vec::load(b + Vec::size);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const Vec ai(a[i]);
      acc[i][0] = fma(ai, b0, acc[i][0]);
      acc[i][1] = fma(ai, b1, acc[i][1]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    acc[i][0].store(tile + i * kNR);
    acc[i][1].store(tile + i * kNR + Vec::size);
  }
}

#if defined(FUSEDLM_ISA_AVX512_BF16)
template <int MR>
FUSEDLM_VEC void multiply_pairs(const uint32_t* a, const uint32_t* b, index_t pairs, float* tile) {
  __m512 acc[MR][2];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) acc[i][0] = acc[i][1] = _mm512_setzero_ps();
  for (index_t k = 0; k < pairs; ++k, a += kMR, b += kNR) {
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b), b1 = (__m512bh)_mm512_loadu_si512(b + 16);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const __m512bh ai = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[i]));
      acc[i][0] = _mm512_dpbf16_ps(acc[i][0], ai, b0);
      acc[i][1] = _mm512_dpbf16_ps(acc[i][1], ai, b1);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    _mm512_storeu_ps(tile + i * kNR, acc[i][0]);
    _mm512_storeu_ps(tile + i * kNR + 16, acc[i][1]);
  }
}
#endif

template <int MR>
void micro_kernel(bool pairs, const uint32_t* a, const uint32_t* b, index_t depth, float* tile) {
#if defined(FUSEDLM_ISA_AVX512_BF16)
  if (pairs) return multiply_pairs<MR>(a, b, depth, tile);
#endif
  (void)pairs;
  multiply_float<MR>(reinterpret_cast<const float*>(a), reinterpret_cast<const float*>(b), depth,
                     tile);
}

using MicroKernel = void (*)(bool, const uint32_t*, const uint32_t*, index_t, float*);
template <int... MR>
MicroKernel kernel_from(index_t rows, std::integer_sequence<int, MR...>) {
  static constexpr MicroKernel table[] = {micro_kernel<MR + 1>...};
  return table[rows - 1];
}

}  // namespace detail

/// The kernel for `rows` in [1, kMR]: one instance each, so that the last panel wastes no products.
/// kernel(pairs, a, b, depth, tile): tile [rows][kNR] = sum over depth lanes of panels a
/// [depth][kMR] and b [depth][kNR].
inline detail::MicroKernel kernel_for(index_t rows) {
  return detail::kernel_from(rows, std::make_integer_sequence<int, kMR>{});
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
