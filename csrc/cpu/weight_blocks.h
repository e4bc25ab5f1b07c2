#pragma once
// What the bytes of quantised weights mean. The blocks are GGUF's; this is the arithmetic that other
// readers of such files do, in the same order and float32, so that results are the same bits.

#include "cpu/switch.h"
#include "fusedlm/weight.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

template <WeightFormat format>
struct Block;  // of the formats with blocks: kSize weights in kBytes

FUSEDLM_VEC float half_at(const uint8_t* p) {
  return load_unaligned(reinterpret_cast<const float16*>(p));
}

#if defined(FUSEDLM_VEC_AVX512)
constexpr index_t kGroup = 32;  // weights: a lane's neighbours along K, sixteen times
/// What turns the bytes q of a group into weights: first * q + second, or, in formats with a shift, scales of q -
/// 2^shift: `first`, and where halves have their own, `second` of the last 16.
struct GroupScales {
  float first, second;
};

namespace detail {
// A byte's halves: 16 numbers of 4 bits, then 16 more.
FUSEDLM_VEC __m256i both_nibbles(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m256i both =
      _mm256_inserti128_si256(_mm256_castsi128_si256(bytes), _mm_srli_epi16(bytes, 4), 1);
  return _mm256_and_si256(both, _mm256_set1_epi8(15));
}
// Bits `shift` and up of 32 bytes, as far as `mask` goes.
FUSEDLM_VEC __m256i bits_at(const uint8_t* p, index_t shift, char mask) {
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm256_and_si256(_mm256_srl_epi16(bytes, _mm_cvtsi64_si128(shift)),
                          _mm256_set1_epi8(mask));
}
}  // namespace detail
#endif

// With AVX-512 a block says of its group j of 32 weights what `bytes` (unsigned, in the order of K) and
// `scales` are, of which both floats and integer products are made; elsewhere it makes floats.

template <>
struct Block<WeightFormat::q8_0> {
  static constexpr index_t kSize = 32, kBytes = 34;
#if defined(FUSEDLM_VEC_AVX512)
  static constexpr int kShift = 7;
  static constexpr index_t kHalves = 1;
  FUSEDLM_VEC static __m256i bytes(const uint8_t* p, index_t) {
    return _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 2)),
                            _mm256_set1_epi8(-128));
  }
  FUSEDLM_VEC static GroupScales scales(const uint8_t* p, index_t) { return {half_at(p), 0.0f}; }
#else
  FUSEDLM_VEC static void dequantize(const uint8_t* p, float* out) {
    const float scale = half_at(p);
    for (index_t i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(int8_t(p[2 + i]));
  }
#endif
};

// Byte i of a block of nibbles holds weights i and, in its upper half, i + 16.

template <>
struct Block<WeightFormat::q4_0> {
  static constexpr index_t kSize = 32, kBytes = 18;
#if defined(FUSEDLM_VEC_AVX512)
  static constexpr int kShift = 3;
  static constexpr index_t kHalves = 1;
  FUSEDLM_VEC static __m256i bytes(const uint8_t* p, index_t) {
    return detail::both_nibbles(p + 2);
  }
  FUSEDLM_VEC static GroupScales scales(const uint8_t* p, index_t) { return {half_at(p), 0.0f}; }
#else
  FUSEDLM_VEC static void dequantize(const uint8_t* p, float* out) {
    const float scale = half_at(p);
    for (index_t i = 0; i < 16; ++i) {
      out[i] = scale * static_cast<float>((p[2 + i] & 15) - 8);
      out[i + 16] = scale * static_cast<float>((p[2 + i] >> 4) - 8);
    }
  }
#endif
};

template <>
struct Block<WeightFormat::q4_1> {
  static constexpr index_t kSize = 32, kBytes = 20;
#if defined(FUSEDLM_VEC_AVX512)
  static constexpr int kShift = 0;
  static constexpr index_t kHalves = 1;
  FUSEDLM_VEC static __m256i bytes(const uint8_t* p, index_t) {
    return detail::both_nibbles(p + 4);
  }
  FUSEDLM_VEC static GroupScales scales(const uint8_t* p, index_t) {
    return {half_at(p), half_at(p + 2)};
  }
#else
  FUSEDLM_VEC static void dequantize(const uint8_t* p, float* out) {
    const float scale = half_at(p), minimum = half_at(p + 2);
    for (index_t i = 0; i < 16; ++i) {
      out[i] = scale * static_cast<float>(p[4 + i] & 15) + minimum;
      out[i + 16] = scale * static_cast<float>(p[4 + i] >> 4) + minimum;
    }
  }
#endif
};

// float16 scale and minimum of the scales and minima that follow: those of 8 sub-blocks of 32, of 6 bits
// each, in 12 bytes. Then nibbles, each 32 bytes for two sub-blocks.
template <>
struct Block<WeightFormat::q4_k> {
  static constexpr index_t kSize = 256, kBytes = 144, kNibbles = 16;
  /// Bytes 0 to 7: the 6-bit scales; 8 to 15: the minima.
  FUSEDLM_VEC static void unpack_scales(const uint8_t* p, uint32_t (&out)[4]) {
    uint32_t low
        [3];  // bytes j of the first two words: 6 bits of sub-block j, above them 2 bits of j + 4
    std::memcpy(low, p + 4, sizeof low);
    out[0] = low[0] & 0x3f3f3f3f;
    out[1] = (low[2] & 0x0f0f0f0f) | (low[0] >> 2 & 0x30303030);
    out[2] = low[1] & 0x3f3f3f3f;
    out[3] = (low[2] >> 4 & 0x0f0f0f0f) | (low[1] >> 2 & 0x30303030);
  }
#if defined(FUSEDLM_VEC_AVX512)
  static constexpr int kShift = 0;
  static constexpr index_t kHalves = 1;
  FUSEDLM_VEC static __m256i bytes(const uint8_t* p, index_t j) {
    return detail::bits_at(p + kNibbles + j / 2 * 32, j % 2 * 4, 15);
  }
  FUSEDLM_VEC static GroupScales scales(const uint8_t* p, index_t j) {
    uint32_t words[4];
    unpack_scales(p, words);
    const auto byte = [&](index_t of) {
      return static_cast<float>(words[of + j / 4] >> j % 4 * 8 & 255);
    };
    return {half_at(p) * byte(0), -(half_at(p + 2) * byte(2))};  // the format takes it off
  }
#else
  FUSEDLM_VEC static void dequantize(const uint8_t* p, float* out) {
    uint32_t words[4];
    unpack_scales(p, words);
    uint8_t scales[16];
    std::memcpy(scales, words, sizeof scales);
    const float scale = half_at(p), minimum = half_at(p + 2);
    for (index_t j = 0; j < 8; j += 2, out += 64) {
      const uint8_t* nibbles = p + kNibbles + 16 * j;
      const float scale0 = scale * static_cast<float>(scales[j]),
                  scale1 = scale * static_cast<float>(scales[j + 1]),
                  minimum0 = minimum * static_cast<float>(scales[8 + j]),
                  minimum1 = minimum * static_cast<float>(scales[9 + j]);
      for (index_t i = 0; i < 32; ++i) {
        out[i] = scale0 * static_cast<float>(nibbles[i] & 15) - minimum0;
        out[i + 32] = scale1 * static_cast<float>(nibbles[i] >> 4) - minimum1;
      }
    }
  }
#endif
};

// 128 bytes of low halves, 64 of the two bits above them, 16 signed scales, the float16 scale of all. Of
// each half of the block, byte i of the first has weights i and i + 64, byte i of the second i, i + 32,
// i + 64, i + 96.
template <>
struct Block<WeightFormat::q6_k> {
  static constexpr index_t kSize = 256, kBytes = 210, kHigh = 128, kScales = 192, kScale = 208;
#if defined(FUSEDLM_VEC_AVX512)
  static constexpr int kShift = 5;
  static constexpr index_t kHalves = 2;
  FUSEDLM_VEC static __m256i bytes(const uint8_t* p, index_t j) {
    const index_t half = j / 4, quarter = j % 4;
    const __m256i high = detail::bits_at(p + kHigh + 32 * half, 2 * quarter, 3);
    return _mm256_or_si256(detail::bits_at(p + 64 * half + quarter % 2 * 32, quarter / 2 * 4, 15),
                           _mm256_slli_epi16(high, 4));
  }
  FUSEDLM_VEC static GroupScales scales(const uint8_t* p, index_t j) {
    const float scale = half_at(p + kScale);
    const uint8_t* own = p + kScales + 2 * j;
    return {scale * static_cast<float>(int8_t(own[0])), scale * static_cast<float>(int8_t(own[1]))};
  }
#else
  FUSEDLM_VEC static void dequantize(const uint8_t* p, float* out) {
    const float scale = half_at(p + kScale);
    for (index_t half = 0; half < 2; ++half, out += 128) {
      const uint8_t *low = p + 64 * half, *high = p + kHigh + 32 * half;
      const uint8_t* scales = p + kScales + 8 * half;
      for (index_t part = 0; part < 8; ++part) {  // of 16 weights
        const float s = scale * static_cast<float>(int8_t(scales[part]));
        const index_t first = 16 * part % 64, shift = part / 4 * 4, high_shift = part / 2 * 2;
        for (index_t i = 0; i < 16; ++i) {
          const int q = (low[first + i] >> shift & 15) | (high[first % 32 + i] >> high_shift & 3)
                                                             << 4;
          out[16 * part + i] = s * static_cast<float>(q - 32);
        }
      }
    }
  }
#endif
};

template <WeightFormat format>
struct FormatConstant {
  static constexpr WeightFormat value = format;
};

/// The element of a format without blocks.
template <WeightFormat format>
struct ElementOf;
template <>
struct ElementOf<WeightFormat::float32> {
  using type = float;
};
template <>
struct ElementOf<WeightFormat::float16> {
  using type = float16;
};
template <>
struct ElementOf<WeightFormat::bfloat16> {
  using type = bfloat16;
};
template <>
struct ElementOf<WeightFormat::int8> {
  using type = int8_t;
};

constexpr bool has_blocks(WeightFormat format) { return format >= WeightFormat::q8_0; }

/// row_bytes, known to the compiler.
template <WeightFormat format>
constexpr index_t row_bytes_of(index_t cols) {
  if constexpr (has_blocks(format)) {
    return cols * Block<format>::kBytes / Block<format>::kSize;
  } else {
    return cols * static_cast<index_t>(sizeof(typename ElementOf<format>::type));
  }
}

/// fn(FormatConstant<format>{})
template <class Fn>
FUSEDLM_VEC void switch_format(WeightFormat format, Fn&& fn) {
  switch (format) {
    case WeightFormat::float32:
      return fn(FormatConstant<WeightFormat::float32>{});
    case WeightFormat::float16:
      return fn(FormatConstant<WeightFormat::float16>{});
    case WeightFormat::bfloat16:
      return fn(FormatConstant<WeightFormat::bfloat16>{});
    case WeightFormat::int8:
      return fn(FormatConstant<WeightFormat::int8>{});
    case WeightFormat::q8_0:
      return fn(FormatConstant<WeightFormat::q8_0>{});
    case WeightFormat::q4_0:
      return fn(FormatConstant<WeightFormat::q4_0>{});
    case WeightFormat::q4_1:
      return fn(FormatConstant<WeightFormat::q4_1>{});
    case WeightFormat::q4_k:
      return fn(FormatConstant<WeightFormat::q4_k>{});
    case WeightFormat::q6_k:
      return fn(FormatConstant<WeightFormat::q6_k>{});
  }
}

FUSEDLM_VEC const uint8_t* row_of(const Weight& w, index_t row, index_t bytes) {
  return static_cast<const uint8_t*>(w.data) + row * bytes;
}

#if defined(FUSEDLM_VEC_AVX512)
/// A group of weights as float32.
struct Group {
  Vec first, second;
};

/// Group j of the block at p.
template <WeightFormat format>
FUSEDLM_VEC Group dequantize_group(const uint8_t* p, index_t j) {
  using B = Block<format>;
  const __m256i q = B::bytes(p, j);
  const GroupScales s = B::scales(p, j);
  const auto part = [&](__m128i bytes, float scale) {
    const Vec x = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
    if constexpr (B::kShift == 0) return Vec(scale) * x + Vec(s.second);
    return Vec(scale) * (x - Vec(static_cast<float>(1 << B::kShift)));
  };
  return {part(_mm256_castsi256_si128(q), s.first),
          part(_mm256_extracti128_si256(q, 1), B::kHalves == 2 ? s.second : s.first)};
}
#endif

/// Weights [first, first + count) of a row of `format`, both whole blocks, as float32.
template <WeightFormat format>
FUSEDLM_VEC void dequantize_part(const uint8_t* row, float row_scale, index_t first, index_t count,
                                 float* out) {
  if constexpr (has_blocks(format)) {
    using B = Block<format>;
    row += first / B::kSize * B::kBytes;
    for (index_t c = 0; c < count; c += B::kSize, row += B::kBytes) {
#if defined(FUSEDLM_VEC_AVX512)
      for (index_t j = 0; j < B::kSize / kGroup; ++j) {
        const Group g = dequantize_group<format>(row, j);
        g.first.store(out + c + kGroup * j);
        g.second.store(out + c + kGroup * j + kGroup / 2);
      }
#else
      B::dequantize(row, out + c);
#endif
    }
  } else if constexpr (format == WeightFormat::int8) {
    for (index_t c = 0; c < count; ++c) {
      out[c] = row_scale * static_cast<float>(int8_t(row[first + c]));
    }
  } else {
    using T = typename ElementOf<format>::type;
    convert_row(reinterpret_cast<const T*>(row) + first, count, out);
  }
}

#if defined(FUSEDLM_VEC_AVX512)
/// Weights [first, first + count) of a row, count at most a group and `first` a multiple of one; zeros behind
/// them.
template <WeightFormat format>
FUSEDLM_VEC Group group_of(const uint8_t* row, float row_scale, index_t first, index_t count) {
  const index_t n = min_of(16, count), rest = max_of(0, count - 16);
  if constexpr (has_blocks(format)) {
    using B = Block<format>;
    return dequantize_group<format>(row + first / B::kSize * B::kBytes, first % B::kSize / kGroup);
  } else if constexpr (format == WeightFormat::int8) {
    const auto part = [&](index_t from, index_t some) {
      return Vec(row_scale) * Vec(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
                                  _mm_maskz_loadu_epi8(Vec::mask(some), row + from))));
    };
    return {part(first, n), part(first + 16, rest)};
  } else {
    const auto* from = reinterpret_cast<const typename ElementOf<format>::type*>(row) + first;
    return {Vec::load(from, n), Vec::load(from + 16, rest)};
  }
}
#endif

/// Rows [first, first + rows), weights [first_col, first_col + cols) of w as float32 or bfloat16; columns
/// are whole blocks.
void dequantize_rows(const Weight& w, index_t first, index_t rows, index_t first_col, index_t cols,
                     void* out, DType dtype, index_t stride);

}  // namespace fusedlm::cpu::FUSEDLM_ISA
