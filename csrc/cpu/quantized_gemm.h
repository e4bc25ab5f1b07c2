#pragma once
// Products of many rows of x (a prompt) with quantised weights, in integers. Weights are unpacked to bytes
// once, into panels of kNR columns; x is rounded to bytes in groups of 32, as for a few rows. A tile of
// 6 x 32 sums stays in registers over all of K: four products a lane and instruction (VPDPBUSD) make
// the sum of a group, which both scales turn into float32.

#include "cpu/gemm_block.h"
#include "cpu/quantized_dot.h"

#if defined(FUSEDLM_HAS_INTEGER_DOTS)

namespace fusedlm::cpu::FUSEDLM_ISA {

constexpr index_t kGroupLanes = 8;  // of four bytes each
constexpr index_t kRowsOfTile = 6;

/// A group of 32 elements of each of kRowsOfTile rows of x.
struct XGroup {
  int32_t lanes[kGroupLanes][kRowsOfTile];  // four bytes each
  float scale[kRowsOfTile], scaled_sum[kRowsOfTile];
  int32_t less[2][kRowsOfTile];  // minus the sum of the bytes of a half
};

/// x [M, K] as groups [panels of kRowsOfTile rows][groups].
struct XPanels {
  index_t groups = 0;
  const XGroup* data = nullptr;
};

/// A group of weights among the panels; int8 is scale * (q - 128).
template <WeightFormat format>
struct GroupOf {
  static constexpr int shift = [] {
    if constexpr (has_blocks(format)) return Block<format>::kShift;
    return 7;
  }();
  static constexpr index_t halves = [] {
    if constexpr (has_blocks(format)) return Block<format>::kHalves;
    return index_t{1};
  }();
  static constexpr bool minimum = shift == 0, two_scales = minimum || halves == 2;
  /// Of a panel: the lanes, then the scales (GroupScales), each for all columns.
  static constexpr index_t words = kGroupLanes * kNR + (two_scales ? 2 : 1) * kNR;
};

namespace detail {

/// Group g of a row of weights as unsigned bytes in the order of K; of `count` weights, and anything
/// behind them. Its scales go to to[0] and to[kNR].
template <WeightFormat format>
FUSEDLM_VEC __m256i unpack_group(const uint8_t* row, float row_scale, index_t g, index_t count,
                                 float* to) {
  if constexpr (format == WeightFormat::int8) {
    to[0] = row_scale;
    const __mmask32 mask = count == kGroup ? ~uint32_t{0} : (uint32_t{1} << count) - 1;
    return _mm256_xor_si256(_mm256_maskz_loadu_epi8(mask, row + g * kGroup),
                            _mm256_set1_epi8(-128));
  } else {
    using B = Block<format>;
    constexpr index_t kGroups = B::kSize / kGroup;
    const uint8_t* p = row + g / kGroups * B::kBytes;
    const GroupScales s = B::scales(p, g % kGroups);
    to[0] = s.first;
    if constexpr (GroupOf<format>::two_scales) to[kNR] = s.second;
    return B::bytes(p, g % kGroups);
  }
}

// Rows [first, first + columns) of w as one panel [groups][GroupOf::words].
template <WeightFormat format>
void unpack_panel(const Weight& w, index_t first, index_t columns, uint32_t* out) {
  constexpr index_t kWords = GroupOf<format>::words, kScales = kGroupLanes * kNR;
  const index_t bytes = row_bytes_of<format>(w.cols), groups = ceil_div(w.cols, kGroup);
  const uint8_t* base = row_of(w, first, bytes);
  for (index_t c = 0; c < kNR; c += 16) {
    const index_t some = max_of(0, min_of(16, columns - c));
    for (index_t g = 0; g < groups; g += 2) {  // two groups of a row fill a vector
      uint32_t* to = out + g * kWords;
      __m512i lanes[16];
#pragma GCC unroll 16
      for (index_t i = 0; i < 16; ++i) {
        // The next panel is on its way to L2.
        _mm_prefetch(base + (kNR + c + i) * bytes + row_bytes_of<format>(g * kGroup), _MM_HINT_T1);
        const auto group = [&](index_t j) {
          auto* scales = reinterpret_cast<float*>(to + j * kWords + kScales) + c + i;
          if (i < some && g + j < groups) {
            const float scale = format == WeightFormat::int8 ? w.scales[first + c + i] : 1.0f;
            const index_t count = min_of(kGroup, w.cols - (g + j) * kGroup);
            return unpack_group<format>(base + (c + i) * bytes, scale, g + j, count, scales);
          }
          if (g + j < groups) {
            scales[0] = 0.0f;
            if constexpr (GroupOf<format>::two_scales) scales[kNR] = 0.0f;
          }
          return _mm256_setzero_si256();
        };
        lanes[i] = _mm512_inserti64x4(_mm512_castsi256_si512(group(0)), group(1), 1);
      }
      transpose_16x16(lanes);
#pragma GCC unroll 16
      for (index_t i = 0; i < 16; ++i) {
        const index_t j = i / kGroupLanes;
        if (g + j < groups) _mm512_storeu_si512(to + j * kWords + i % 8 * kNR + c, lanes[i]);
      }
    }
  }
}

// tile [kRowsOfTile][kNR] = a panel of x times one of weights.
template <WeightFormat format>
void multiply_groups(const XGroup* x, const uint32_t* w, index_t groups, float* tile) {
  using G = GroupOf<format>;
  constexpr index_t kLanes = kGroupLanes / G::halves;
  Vec sums[kRowsOfTile][2];
  for (index_t g = 0; g < groups; ++g, ++x, w += G::words) {
    const float* scales = reinterpret_cast<const float*>(w + kGroupLanes * kNR);
#pragma GCC unroll 2
    for (index_t half = 0; half < G::halves; ++half) {
      __m512i dots[kRowsOfTile][2];
#pragma GCC unroll 6
      for (index_t m = 0; m < kRowsOfTile; ++m) {
        __m512i start = _mm512_setzero_si512();
        if constexpr (G::shift > 0) {
          const int32_t less = G::halves == 2 ? x->less[half][m] : x->less[0][m] + x->less[1][m];
          start = _mm512_slli_epi32(_mm512_set1_epi32(less), G::shift);
        }
        dots[m][0] = dots[m][1] = start;
      }
#pragma GCC unroll 8
      for (index_t i = half * kLanes; i < (half + 1) * kLanes; ++i) {
        const __m512i w0 = _mm512_loadu_si512(w + i * kNR),
                      w1 = _mm512_loadu_si512(w + i * kNR + 16);
#pragma GCC unroll 6
        for (index_t m = 0; m < kRowsOfTile; ++m) {
          const __m512i bytes = _mm512_set1_epi32(x->lanes[i][m]);
          dots[m][0] = _mm512_dpbusd_epi32(dots[m][0], w0, bytes);
          dots[m][1] = _mm512_dpbusd_epi32(dots[m][1], w1, bytes);
        }
      }
      const Vec s0 = Vec::load(scales + half * kNR), s1 = Vec::load(scales + half * kNR + 16);
#pragma GCC unroll 6
      for (index_t m = 0; m < kRowsOfTile; ++m) {
        const Vec scale(x->scale[m]);
        sums[m][0] = add_scaled(sums[m][0], dots[m][0], s0 * scale);
        sums[m][1] = add_scaled(sums[m][1], dots[m][1], s1 * scale);
      }
    }
    if constexpr (G::minimum) {
      const Vec m0 = Vec::load(scales + kNR), m1 = Vec::load(scales + kNR + 16);
#pragma GCC unroll 6
      for (index_t m = 0; m < kRowsOfTile; ++m) {
        const Vec sum(x->scaled_sum[m]);
        sums[m][0] = fma(m0, sum, sums[m][0]);
        sums[m][1] = fma(m1, sum, sums[m][1]);
      }
    }
  }
#pragma GCC unroll 6
  for (index_t m = 0; m < kRowsOfTile; ++m) {
    sums[m][0].store(tile + m * kNR);
    sums[m][1].store(tile + m * kNR + 16);
  }
}

// Rows [first, first + count) of x, as far as there are so many, as one panel.
template <class T>
void quantize_panel(const TensorView& x, index_t first, index_t groups, XGroup* out) {
  const index_t K = x.shape[1];
  for (index_t m = 0; m < kRowsOfTile; ++m) {
    const bool exists = first + m < x.shape[0];
    const T* row = exists ? x.row<T>(first + m) : nullptr;
    for (index_t g = 0; g < groups; ++g) {
      const index_t count = exists ? min_of(kGroup, K - g * kGroup) : 0;
      const QuantizedGroup q = quantize_group(row + g * kGroup, count);
      alignas(16) int32_t lanes[kGroupLanes];
      _mm_store_si128(reinterpret_cast<__m128i*>(lanes), q.first);
      _mm_store_si128(reinterpret_cast<__m128i*>(lanes + 4), q.second);
#pragma GCC unroll 8
      for (index_t i = 0; i < kGroupLanes; ++i) out[g].lanes[i][m] = lanes[i];
      const int32_t sum0 = sum_of_bytes(q.first), sum1 = sum_of_bytes(q.second);
      out[g].scale[m] = q.scale;
      out[g].scaled_sum[m] = q.scale * static_cast<float>(sum0 + sum1);
      out[g].less[0][m] = -sum0, out[g].less[1][m] = -sum1;
    }
  }
}

}  // namespace detail

/// x [M, K] in integers, in memory of the workspace.
inline XPanels quantize_panels(const TensorView& x, Context& ctx) {
  const index_t panels = ceil_div(x.shape[0], kRowsOfTile), groups = ceil_div(x.shape[1], kGroup);
  auto* data = ctx.workspace().take<XGroup>(panels * groups);
  switch_float(x.dtype, [&](auto type) {
    parallel_for(panels, [&](index_t panel, int) {
      detail::quantize_panel<decltype(type)>(x, panel * kRowsOfTile, groups, data + panel * groups);
    });
  });
  return {groups, data};
}

/// The product that `g` describes, whose weight multiplies_integers, with x in place of A.
template <WeightFormat format>
void integer_gemm(const Gemm& g, const XPanels& x, Context& ctx) {
  // Rows of x in a task: enough that the stream of weights costs little.
  constexpr index_t kTaskPanels = 16, kTasksPerThread = 12, kTogether = kPackedTogether / kNR;
  Workspace::Scope scope(ctx.workspace());
  const index_t panel_words = x.groups * GroupOf<format>::words;
  const index_t panels_m = ceil_div(g.M, kRowsOfTile), panels_n = ceil_div(g.N, kNR);
  const index_t some_n =
      min_of(panels_n, max_of(8, kPackedBytes / (panel_words * index_t{sizeof(uint32_t)})));
  const index_t blocks = ceil_div(panels_m, kTaskPanels);
  auto* packed = ctx.workspace().take<uint32_t>(some_n * panel_words);
  for (index_t first = 0; first < panels_n; first += some_n) {
    const index_t count = min_of(some_n, panels_n - first);
    parallel_for_stretches(ceil_div(count, kTogether), [&](index_t task, index_t last, int) {
      const index_t end = min_of(count, last * kTogether);
      for (index_t j = task * kTogether; j < end; ++j) {
        const index_t n = (first + j) * kNR;
        detail::unpack_panel<format>(*g.weight, n, min_of(kNR, g.N - n), packed + j * panel_words);
      }
    });
    const index_t pieces = min_of(count, ceil_div(kTasksPerThread * num_threads(), blocks));
    parallel_for(blocks * pieces, [&](index_t task, int) {
      alignas(64) float tile[kRowsOfTile * kNR];
      const index_t block = task / pieces, piece = task % pieces;
      const index_t last = (block + 1) * panels_m / blocks;
      for (index_t j = piece * count / pieces; j < (piece + 1) * count / pieces; ++j) {
        const index_t n = (first + j) * kNR;
        for (index_t i = block * panels_m / blocks; i < last; ++i) {
          const index_t m = i * kRowsOfTile;
          detail::multiply_groups<format>(x.data + i * x.groups, packed + j * panel_words, x.groups,
                                          tile);
          finish_rows(g, tile, kNR, m, min_of(kRowsOfTile, g.M - m), n, min_of(kNR, g.N - n));
        }
      }
    });
  }
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
#endif
