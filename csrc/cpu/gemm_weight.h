#pragma once
// Packing weights of any format, [N, K], as the B^T of a matrix multiply. With AVX-512 a group of 32
// weights goes from its bytes to a register, and sixteen of these are transposed on their way to the
// panel; elsewhere a panel at a time is dequantised into L2 and packed from there.

#include <algorithm>

#include "cpu/gemm_block.h"
#include "cpu/weight_blocks.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

/// Where blocks of K may begin: a multiple of a group.
constexpr index_t kWeightUnit = 32;

#if defined(FUSEDLM_VEC_AVX512)
inline index_t weight_scratch(index_t) { return 0; }

namespace detail {

// Sixteen lanes of [K][columns] for each of 16 columns, on their way to a panel.
FUSEDLM_VEC void store_transposed(__m512i (&lanes)[16], index_t depth, uint32_t* out) {
  transpose_16x16(lanes);
  if (depth >= 16) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(out + i * kNR, lanes[i]);
  } else {
    for (int i = 0; i < depth; ++i) _mm512_storeu_si512(out + i * kNR, lanes[i]);
  }
}

// Rows [first, first + columns) of w, weights [k0, k0 + K), as one panel.
template <WeightFormat format>
void pack_weight_panel(const Weight& w, bool pairs, index_t k0, index_t K, index_t first,
                       index_t columns, uint32_t* out) {
  const index_t bytes = row_bytes_of<format>(w.cols);
  const uint8_t* base = row_of(w, first, bytes);
  for (index_t c = 0; c < kNR; c += 16) {
    const index_t some = max_of(0, min_of(16, columns - c));
    float scales[16] = {};
    if (format == WeightFormat::int8) std::copy_n(w.scales + first + c, some, scales);
    for (index_t k = 0; k < K; k += kGroup) {
      const index_t count = min_of(kGroup, K - k);
      const auto group = [&](index_t i) {
        return group_of<format>(base + (c + i) * bytes, scales[i], k0 + k, count);
      };
      // The next panel is on its way to L2.
#pragma GCC unroll 16
      for (index_t i = 0; i < 16; ++i) {
        _mm_prefetch(base + (kNR + c + i) * bytes + row_bytes_of<format>(k0 + k), _MM_HINT_T1);
      }
      __m512i lanes[16];
      if (pairs) {
        const auto rounded = [&](index_t i) {
          if constexpr (format == WeightFormat::bfloat16) {
            const auto* from = reinterpret_cast<const bfloat16*>(base + (c + i) * bytes) + k0 + k;
            if (count == kGroup) return _mm512_loadu_si512(from);
            return _mm512_maskz_loadu_epi16((uint32_t{1} << count) - 1, from);
          } else {
            const Group g = group(i);
            return _mm512_inserti64x4(_mm512_castsi256_si512(g.first.rounded()), g.second.rounded(),
                                      1);
          }
        };
        if (some == 16) {
#pragma GCC unroll 16
          for (int i = 0; i < 16; ++i) lanes[i] = rounded(i);
        } else {
          for (int i = 0; i < 16; ++i) lanes[i] = i < some ? rounded(i) : _mm512_setzero_si512();
        }
        store_transposed(lanes, ceil_div(count, 2), out + k / 2 * kNR + c);
        continue;
      }
      __m512i second[16];
      for (int i = 0; i < 16; ++i) {
        const Group g = i < some ? group(i) : Group{};
        lanes[i] = _mm512_castps_si512(g.first.v);
        second[i] = _mm512_castps_si512(g.second.v);
      }
      store_transposed(lanes, count, out + k * kNR + c);
      store_transposed(second, count - 16, out + (k + 16) * kNR + c);
    }
  }
}

}  // namespace detail

/// Task `task` of packing weights [k0, k0 + K) of rows [first, first + columns) of w.
inline void pack_weight(const Weight& w, const Panels& p, index_t k0, index_t K, index_t first,
                        index_t columns, index_t task, uint32_t* packed, void*) {
  const index_t last = min_of(columns, (task + 1) * kPackedTogether);
  switch_format(w.format, [&](auto format) {
    for (index_t n = task * kPackedTogether; n < last; n += kNR) {
      detail::pack_weight_panel<decltype(format)::value>(
          w, p.pairs, k0, K, first + n, min_of(kNR, last - n), packed + n * p.depth);
    }
  });
}
#else
// Weights begin and end in the middle of a block where a block of K does; those of one block at most are
// dequantised in vain at either end.
constexpr index_t kLargestBlock = 256;
// An odd number of 32 elements: rows 4 KiB apart would all fall into one set of L1 (K = 1536).
inline index_t dequantised_stride(index_t block_k) {
  return (ceil_div(block_k + 2 * kLargestBlock, 32) | 1) * 32;
}
/// Floats that `pack_weight` needs of each thread.
inline index_t weight_scratch(index_t block_k) { return kNR * dequantised_stride(block_k); }

/// Task `task` of packing weights [k0, k0 + K) of rows [first, first + columns) of w.
inline void pack_weight(const Weight& w, const Panels& p, index_t k0, index_t K, index_t first,
                        index_t columns, index_t task, uint32_t* packed, float* scratch) {
  const index_t block = block_size(w.format);
  const index_t begin = k0 / block * block, end = min_of(w.cols, ceil_div(k0 + K, block) * block);
  const index_t stride = dequantised_stride(K),
                last = min_of(columns, (task + 1) * kPackedTogether);
  for (index_t n = task * kPackedTogether; n < last; n += kNR) {
    const index_t count = min_of(kNR, last - n);
    dequantize_rows(w, first + n, count, begin, end - begin, scratch, DType::float32, stride);
    pack_panels<kNR>(Matrix{scratch + (k0 - begin), DType::float32, 1, stride}, p.pairs, 0, K, 0,
                     count, packed + n * p.depth, p.depth * kNR);
  }
}
#endif

}  // namespace fusedlm::cpu::FUSEDLM_ISA
