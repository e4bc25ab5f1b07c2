#pragma once
// Rows of quantised weights times a few rows of x in integers (VPDPBUSD: 4 products of unsigned and signed
// bytes summed in 32 bits). 128 weights make a step: four groups of 32, each with a scale. The first 16
// weights of all groups fill one vector, the last 16 another, so that four lanes of the sums belong to a
// group, and one conversion and one multiply-add by scale(weights) * scale(x) finish a step. Nibbles lie
// in that order in the file already. Weights are unsigned q + offset; `offset` times the sum of x is
// taken off again, exactly.

#include "cpu/weight_blocks.h"

#if defined(FUSEDLM_ISA_AVX512_BF16)
#define FUSEDLM_HAS_INTEGER_DOTS 1

namespace fusedlm::cpu::FUSEDLM_ISA {

constexpr index_t kStepWeights = 128;

/// How a format takes off what makes its weights unsigned, and what a step of x brings for that.
enum class XForm { less_128, less_8, less_32_by_halves, minimum };
constexpr int kXForms = 4;
constexpr XForm x_form(WeightFormat format) {
  switch (format) {
    case WeightFormat::q4_0:
      return XForm::less_8;
    case WeightFormat::q6_k:
      return XForm::less_32_by_halves;
    case WeightFormat::q4_1:
    case WeightFormat::q4_k:
      return XForm::minimum;
    default:
      return XForm::less_128;
  }
}

/// 128 elements of x, rounded to 8 bits in groups of 32; elements behind the last are 0. Small, since each
/// row of weights reads it again: with six lines a step instead of four, Zen 4 reads weights half as fast.
struct alignas(64) XBytes {
  int8_t first[64], second[64];  // of each group 16 elements
  float scale[16];               // of each group, four times
};
template <XForm form>
struct XStep : XBytes {
  // - offset * the sum of a lane's bytes: where the sum of products starts.
  int32_t less[16];
};
template <>
struct XStep<XForm::less_32_by_halves> : XBytes {
  int32_t less_first[16], less_second[16];  // the two vectors have scales of their own
};
template <>
struct XStep<XForm::minimum> : XBytes {
  float scaled_sum[16];  // scale * the sum of a lane's bytes
};
template <WeightFormat format>
using XStepFor = XStep<x_form(format)>;

/// A group of 32 elements rounded to 8 bits.
struct QuantizedGroup {
  __m128i first, second;
  float scale;
};
/// x [count], at most 32; what is missing is 0. Where x is not finite, neither is the scale, and with it
/// every result.
template <class T>
FUSEDLM_VEC QuantizedGroup quantize_group(const T* x, index_t count) {
  Vec a, b;
  if (count == kGroup) {
    a = Vec::load(x), b = Vec::load(x + 16);
  } else if (count > 0) {
    a = Vec::load(x, min_of(16, count));
    if (count > 16) b = Vec::load(x + 16, count - 16);
  }
  const float largest = reduce_max(max(abs(a), abs(b)));
  constexpr int kNotFinite = 0x99;  // quiet NaN, +inf, -inf, signalling NaN
  const bool finite =
      !(_mm512_fpclass_ps_mask(a.v, kNotFinite) | _mm512_fpclass_ps_mask(b.v, kNotFinite));
  const bool tiny = !(largest > 1e-30f);  // whose reciprocal might overflow
  const float scale = !finite ? NAN : tiny ? 0.0f : largest * (1.0f / 127.0f);
  const Vec inverse(tiny || !finite ? 0.0f : 127.0f / largest);
  const auto bytes = [&](Vec v) {
    return _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32((v * inverse).v));
  };
  return {bytes(a), bytes(b), scale};
}

/// x [count], at most 128.
template <XForm form, class T>
FUSEDLM_VEC void quantize_step(const T* x, index_t count, XStep<form>& out) {
  for (index_t g = 0; g < 4; ++g) {
    const QuantizedGroup q = quantize_group(x + 32 * g, max_of(0, min_of(32, count - 32 * g)));
    _mm_store_si128(reinterpret_cast<__m128i*>(out.first + 16 * g), q.first);
    _mm_store_si128(reinterpret_cast<__m128i*>(out.second + 16 * g), q.second);
    _mm_store_ps(out.scale + 4 * g, _mm_set1_ps(q.scale));
  }
  const __m512i zero = _mm512_setzero_si512();
  const auto add_sums = [](__m512i sums, const int8_t* bytes) {
    return _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), _mm512_load_si512(bytes));
  };
  const auto store_less = [&](int32_t* to, __m512i sums, int shift) {
    _mm512_store_si512(
        to, _mm512_sub_epi32(zero, _mm512_slli_epi32(sums, static_cast<unsigned>(shift))));
  };
  const __m512i first_sum = add_sums(zero, out.first), sum = add_sums(first_sum, out.second);
  if constexpr (form == XForm::minimum) {
    (Vec(_mm512_cvtepi32_ps(sum)) * Vec::load(out.scale)).store(out.scaled_sum);
  } else if constexpr (form == XForm::less_32_by_halves) {
    store_less(out.less_first, first_sum, 5);
    store_less(out.less_second, _mm512_sub_epi32(sum, first_sum), 5);
  } else {
    store_less(out.less, sum, form == XForm::less_128 ? 7 : 3);
  }
}

namespace detail {

struct alignas(64) ByteOrder {
  uint8_t at[64];
};
FUSEDLM_VEC __m512i bytes_by(const ByteOrder& order, __m512i a, __m512i b) {
  return _mm512_permutex2var_epi8(a, _mm512_load_si512(order.at), b);
}
/// 16 bytes from each of four blocks, `stride` apart, out of a vector at byte 0 and one at `second`.
constexpr ByteOrder order_of_parts(int stride, int offset, int second) {
  ByteOrder order{};
  for (int i = 0; i < 64; ++i) {
    const int from = i / 16 * stride + offset + i % 16;
    order.at[i] = static_cast<uint8_t>(from < 64 ? from : 64 + from - second);
  }
  return order;
}
/// The float16 at the head of each of four blocks, four times; then that behind it.
constexpr ByteOrder order_of_halves(int stride, int second) {
  ByteOrder order{};
  for (int i = 0; i < 64; ++i) {
    const int from = i % 32 / 8 * stride + i / 32 * 2 + i % 2;
    order.at[i] = static_cast<uint8_t>(from < 64 ? from : 64 + from - second);
  }
  return order;
}

/// 64 bytes at p + offset, of which only those before p + bytes are read.
FUSEDLM_VEC __m512i bytes_at(const uint8_t* p, index_t offset) {
  return _mm512_loadu_si512(p + offset);
}
FUSEDLM_VEC __m512i bytes_at(const uint8_t* p, index_t offset, index_t bytes) {
  const index_t n = max_of(0, min_of(64, bytes - offset));
  return _mm512_maskz_loadu_epi8(n == 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1, p + offset);
}

FUSEDLM_VEC __m512i low_nibbles(__m512i bytes) {
  return _mm512_and_si512(bytes, _mm512_set1_epi8(15));
}
FUSEDLM_VEC __m512i high_nibbles(__m512i bytes) { return low_nibbles(_mm512_srli_epi16(bytes, 4)); }
FUSEDLM_VEC Vec halves_to_float(__m256i halves) { return _mm512_cvtph_ps(halves); }

// 128-bit quarters of two vectors, in pairs of 64 bits: even quarters of a, then of b; odd ones.
constexpr int64_t kEvenQuarters[8] = {0, 1, 4, 5, 8, 9, 12, 13};
constexpr int64_t kOddQuarters[8] = {2, 3, 6, 7, 10, 11, 14, 15};
// The same, a and b taking turns.
constexpr int64_t kEvenInTurn[8] = {0, 1, 8, 9, 4, 5, 12, 13};
constexpr int64_t kOddInTurn[8] = {2, 3, 10, 11, 6, 7, 14, 15};
FUSEDLM_VEC __m512i quarters_by(const int64_t (&order)[8], __m512i a, __m512i b) {
  return _mm512_permutex2var_epi64(a, _mm512_loadu_si512(order), b);
}

// start + the sum over both vectors of q * x, lane by lane, for unsigned q.
FUSEDLM_VEC __m512i dot(__m512i start, __m512i first, __m512i second, const XBytes& x) {
  const __m512i sum = _mm512_dpbusd_epi32(start, first, _mm512_load_si512(x.first));
  return _mm512_dpbusd_epi32(sum, second, _mm512_load_si512(x.second));
}
FUSEDLM_VEC Vec add_scaled(Vec acc, __m512i dots, Vec scale) {
  return fma(Vec(_mm512_cvtepi32_ps(dots)), scale, acc);
}

/// Weights scale * (q - offset), q unsigned.
template <XForm form>
struct Centred {
  __m512i first, second;
  Vec scale;
  FUSEDLM_VEC Vec add(Vec acc, const XStep<form>& x) const {
    return add_scaled(acc, dot(_mm512_load_si512(x.less), first, second, x),
                      scale * Vec::load(x.scale));
  }
};
/// Weights scale * q + minimum.
struct WithMinimum {
  __m512i first, second;
  Vec scale, minimum;
  FUSEDLM_VEC Vec add(Vec acc, const XStep<XForm::minimum>& x) const {
    const Vec sum =
        add_scaled(acc, dot(_mm512_setzero_si512(), first, second, x), scale * Vec::load(x.scale));
    return fma(minimum, Vec::load(x.scaled_sum), sum);
  }
};

}  // namespace detail

/// Step `i` of a row: `load` reads it, or, given `count` weights, so many of it; `add` adds its product
/// with x to the sums.
template <WeightFormat format>
struct WeightStep;

template <>
struct WeightStep<WeightFormat::int8> {
  __m512i first, second;
  template <class... Count>
  FUSEDLM_VEC void load(const uint8_t* row, index_t i, Count... count) {
    const uint8_t* p = row + i * kStepWeights;
    const __m512i sign = _mm512_set1_epi8(-128);
    const __m512i a = _mm512_xor_si512(detail::bytes_at(p, 0, count...), sign),
                  b = _mm512_xor_si512(detail::bytes_at(p, 64, count...), sign);
    first = detail::quarters_by(detail::kEvenQuarters, a, b);
    second = detail::quarters_by(detail::kOddQuarters, a, b);
  }
  FUSEDLM_VEC Vec add(Vec acc, const XStepFor<WeightFormat::int8>& x) const {
    return detail::add_scaled(acc, detail::dot(_mm512_load_si512(x.less), first, second, x),
                              Vec::load(x.scale));
  }
};

template <>
struct WeightStep<WeightFormat::q8_0> : detail::Centred<XForm::less_128> {
  template <class... Count>
  FUSEDLM_VEC void load(const uint8_t* row, index_t i, Count... count) {
    constexpr int kBytes = 34;
    static constexpr detail::ByteOrder kFirst = detail::order_of_parts(kBytes, 2, 64),
                                       kSecond = detail::order_of_parts(kBytes, 18 - 8, 64),
                                       kScale = detail::order_of_halves(kBytes, 64);
    const uint8_t* p = row + i * 4 * kBytes;
    const __m512i sign = _mm512_set1_epi8(-128);
    const __m512i a = detail::bytes_at(p, 0, count / 32 * kBytes...),
                  b = detail::bytes_at(p, 64, count / 32 * kBytes...),
                  c = detail::bytes_at(p, 8, count / 32 * kBytes...),
                  d = detail::bytes_at(p, 72, count / 32 * kBytes...);
    first = _mm512_xor_si512(detail::bytes_by(kFirst, a, b), sign);
    second = _mm512_xor_si512(detail::bytes_by(kSecond, c, d), sign);
    scale = detail::halves_to_float(_mm512_castsi512_si256(detail::bytes_by(kScale, a, b)));
  }
};

template <>
struct WeightStep<WeightFormat::q4_0> : detail::Centred<XForm::less_8> {
  template <class... Count>
  FUSEDLM_VEC void load(const uint8_t* row, index_t i, Count... count) {
    constexpr int kBytes = 18;
    static constexpr detail::ByteOrder kNibbles = detail::order_of_parts(kBytes, 2, 8),
                                       kScale = detail::order_of_halves(kBytes, 8);
    const uint8_t* p = row + i * 4 * kBytes;
    const __m512i a = detail::bytes_at(p, 0, count / 32 * kBytes...),
                  b = detail::bytes_at(p, 8, count / 32 * kBytes...);
    const __m512i nibbles = detail::bytes_by(kNibbles, a, b);
    first = detail::low_nibbles(nibbles);
    second = detail::high_nibbles(nibbles);
    scale = detail::halves_to_float(_mm512_castsi512_si256(detail::bytes_by(kScale, a, b)));
  }
};

template <>
struct WeightStep<WeightFormat::q4_1> : detail::WithMinimum {
  template <class... Count>
  FUSEDLM_VEC void load(const uint8_t* row, index_t i, Count... count) {
    constexpr int kBytes = 20;
    static constexpr detail::ByteOrder kNibbles = detail::order_of_parts(kBytes, 4, 16),
                                       kScales = detail::order_of_halves(kBytes, 16);
    const uint8_t* p = row + i * 4 * kBytes;
    const __m512i a = detail::bytes_at(p, 0, count / 32 * kBytes...),
                  b = detail::bytes_at(p, 16, count / 32 * kBytes...);
    const __m512i nibbles = detail::bytes_by(kNibbles, a, b);
    first = detail::low_nibbles(nibbles);
    second = detail::high_nibbles(nibbles);
    // The last float16 of four blocks ends at byte 64: they are all in a.
    const __m512i halves = _mm512_permutexvar_epi8(_mm512_load_si512(kScales.at), a);
    scale = detail::halves_to_float(_mm512_castsi512_si256(halves));
    minimum = detail::halves_to_float(_mm512_extracti64x4_epi64(halves, 1));
  }
};

template <>
struct WeightStep<WeightFormat::q4_k> : detail::WithMinimum {
  using B = Block<WeightFormat::q4_k>;
  FUSEDLM_VEC void load(const uint8_t* row, index_t i) {
    const uint8_t* p = row + i / 2 * B::kBytes;
    const index_t half = i % 2;
    const __m512i bytes = detail::bytes_at(p, B::kNibbles + 64 * half);
    const __m512i low = detail::low_nibbles(bytes), high = detail::high_nibbles(bytes);
    first = detail::quarters_by(detail::kEvenInTurn, low, high);
    second = detail::quarters_by(detail::kOddInTurn, low, high);
    uint32_t words[4];
    B::unpack_scales(p, words);
    // Byte g of a word, four times.
    const auto spread = [](uint32_t word) {
      const __m512i shifts =
          _mm512_setr_epi32(0, 0, 0, 0, 8, 8, 8, 8, 16, 16, 16, 16, 24, 24, 24, 24);
      const __m512i bytes = _mm512_srlv_epi32(_mm512_set1_epi32(static_cast<int>(word)), shifts);
      return Vec(_mm512_cvtepi32_ps(_mm512_and_si512(bytes, _mm512_set1_epi32(255))));
    };
    scale = Vec(half_at(p)) * spread(words[half]);
    minimum = Vec(-half_at(p + 2)) * spread(words[2 + half]);  // the format takes it off
  }
};

template <>
struct WeightStep<WeightFormat::q6_k> {
  using B = Block<WeightFormat::q6_k>;
  __m512i first, second;
  Vec first_scale, second_scale;  // groups of 16: the two vectors have scales of their own
  FUSEDLM_VEC void load(const uint8_t* row, index_t i) {
    const uint8_t* p = row + i / 2 * B::kBytes;
    const index_t half = i % 2;
    const __m512i low = detail::bytes_at(p, 64 * half);
    const __m512i high = _mm512_broadcast_i64x4(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + B::kHigh + 32 * half)));
    // The two bits of weights 0 to 31, 32 to 63, ... of this half are bits 0, 2, ... of `high`; they go to
    // bits 4 and 5.
    const __m512i mask = _mm512_set1_epi8(0x30);
    const __m512i up = _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2),
                  down = _mm512_setr_epi64(0, 0, 0, 0, 2, 2, 2, 2);
    const __m512i q0 = _mm512_or_si512(detail::low_nibbles(low),
                                       _mm512_and_si512(_mm512_sllv_epi64(high, up), mask));
    const __m512i q1 = _mm512_or_si512(detail::high_nibbles(low),
                                       _mm512_and_si512(_mm512_srlv_epi64(high, down), mask));
    first = detail::quarters_by(detail::kEvenQuarters, q0, q1);
    second = detail::quarters_by(detail::kOddQuarters, q0, q1);
    const __m128i scales =
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + B::kScales + 8 * half));
    const __m128i even = _mm_setr_epi8(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6);
    const auto spread = [&](__m128i order) {
      return Vec(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_shuffle_epi8(scales, order))));
    };
    const Vec scale(half_at(p + B::kScale));
    first_scale = scale * spread(even);
    second_scale = scale * spread(_mm_add_epi8(even, _mm_set1_epi8(1)));
  }
  FUSEDLM_VEC Vec add(Vec acc, const XStepFor<WeightFormat::q6_k>& x) const {
    const __m512i a = _mm512_dpbusd_epi32(_mm512_load_si512(x.less_first), first,
                                          _mm512_load_si512(x.first)),
                  b = _mm512_dpbusd_epi32(_mm512_load_si512(x.less_second), second,
                                          _mm512_load_si512(x.second));
    const Vec scale = Vec::load(x.scale);
    acc = detail::add_scaled(acc, a, first_scale * scale);
    return detail::add_scaled(acc, b, second_scale * scale);
  }
};

}  // namespace fusedlm::cpu::FUSEDLM_ISA
#endif
