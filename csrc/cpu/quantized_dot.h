#pragma once
// Rows of quantised weights times a few rows of x in integers (VPDPBUSD: 4 products of unsigned and signed
// bytes summed in 32 bits). 128 weights make a step: four groups of 32, each with a scale. The first 16
// weights of all groups fill one vector, the last 16 another, so that four lanes of the sums belong to a
// group, and one conversion and one multiply-add by scale(weights) * scale(x) finish a step. Nibbles lie
// in that order in the file already. Weights are unsigned, scale * (q - offset) or scale * q + minimum; what
// that adds to a group's scaled sum is the same for all its lanes, and is added up in four lanes apart.

#include "cpu/weight_blocks.h"

#if defined(FUSEDLM_ISA_AVX512_BF16)
#define FUSEDLM_HAS_INTEGER_DOTS 1

namespace fusedlm::cpu::FUSEDLM_ISA {

constexpr index_t kStepWeights = 128;

/// Rows of x, rounded to 8 bits in groups of 32, step by step; elements behind the last are 0. Each row of
/// weights reads a row of x again: it lies close together and without gaps, or the prefetching of weights
/// suffers (Zen 4 reads int8 half as fast with scales as they are needed, four times in a row).
struct RoundedRows {
  index_t steps = 0;        // of a row
  int8_t* bytes = nullptr;  // of a step, of each group the first 16, then the others
  // A step whose elements are large next to those of the row is in 16 bits: bytes + fine / 256. There the
  // error would be large, and a few such steps are most of it.
  int8_t* fine = nullptr;
  bool* is_fine = nullptr;  // of each step
  // Of each group: its scale, and that times the sum of its bytes, of the first 16 and of the others.
  float *scales = nullptr, *sums = nullptr, *first_sums = nullptr, *second_sums = nullptr;
  float* offsets = nullptr;  // of each row, 128 times its sum
};

/// A step of a row of x.
struct XStep {
  const RoundedRows& x;
  index_t at;
  FUSEDLM_VEC __m128 groups(const float* from) const { return _mm_load_ps(from + at * 4); }

  /// Sum over q and elements of x in `half` 0 (of each group the first 16) or 1, from `sums` on.
  FUSEDLM_VEC __m512i coarse(__m512i sums, __m512i q, int half) const {
    return dot(sums, q, x.bytes, half);
  }
  FUSEDLM_VEC __m512i fine(__m512i sums, __m512i q, int half) const {
    return dot(sums, q, x.fine, half);
  }
  FUSEDLM_VEC bool is_fine() const { return x.is_fine[at]; }

 private:
  FUSEDLM_VEC __m512i dot(__m512i sums, __m512i q, const int8_t* bytes, int half) const {
    return _mm512_dpbusd_epi32(sums, q, _mm512_load_si512(bytes + at * kStepWeights + 64 * half));
  }
};

/// Sums of a row: lane by lane, and those of whole groups.
struct RowSums {
  Vec lanes;
  __m128 groups = _mm_setzero_ps();
  FUSEDLM_VEC Vec all() const { return lanes + Vec(_mm512_zextps128_ps512(groups)); }
};

/// A group of 32 elements rounded to 8 bits, and what is left of each, in 256ths.
struct QuantizedGroup {
  __m128i first, second, fine_first, fine_second;
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
  const auto bytes = [](Vec v) { return _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v.v)); };
  const Vec u = a * inverse, v = b * inverse, parts(256.0f);
  return {bytes(u), bytes(v), bytes((u - round(u)) * parts), bytes((v - round(v)) * parts), scale};
}

FUSEDLM_VEC int sum_of_bytes(__m128i bytes) {
  const __m128i sums = _mm_dpbusd_epi32(_mm_setzero_si128(), _mm_set1_epi8(1), bytes);
  const __m128i pairs = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32(pairs, 0xb1)));
}

/// x [count], at most 128, as step `at`; `large`: from what element on it is in 16 bits.
template <class T>
FUSEDLM_VEC void quantize_step(const T* x, index_t count, float large, const RoundedRows& out,
                               index_t at) {
  const auto store = [&](int8_t* to, index_t g, __m128i first, __m128i second) {
    to += at * kStepWeights + 16 * g;
    _mm_store_si128(reinterpret_cast<__m128i*>(to), first);
    _mm_store_si128(reinterpret_cast<__m128i*>(to + 64), second);
  };
  QuantizedGroup groups[4];
  bool fine = false;
  for (index_t g = 0; g < 4; ++g) {
    groups[g] = quantize_group(x + 32 * g, max_of(0, min_of(32, count - 32 * g)));
    fine = fine || groups[g].scale * 127.0f > large;
  }
  out.is_fine[at] = fine;
  for (index_t g = 0; g < 4; ++g) {
    const QuantizedGroup& q = groups[g];
    store(out.bytes, g, q.first, q.second);
    int first = sum_of_bytes(q.first), second = sum_of_bytes(q.second);
    float scale = q.scale;
    if (fine) {
      store(out.fine, g, q.fine_first, q.fine_second);
      first = 256 * first + sum_of_bytes(q.fine_first);
      second = 256 * second + sum_of_bytes(q.fine_second);
      scale *= 1.0f / 256.0f;
    }
    const index_t group = at * 4 + g;
    out.scales[group] = scale;
    out.first_sums[group] = scale * static_cast<float>(first);
    out.second_sums[group] = scale * static_cast<float>(second);
    out.sums[group] = scale * static_cast<float>(first + second);
  }
}

namespace detail {

struct alignas(64) ByteOrder {
  uint8_t at[64];
};
FUSEDLM_VEC __m512i bytes_by(const ByteOrder& order, __m512i a) {
  return _mm512_permutexvar_epi8(_mm512_load_si512(order.at), a);
}
FUSEDLM_VEC __m512i bytes_by(const ByteOrder& order, __m512i a, __m512i b) {
  return _mm512_permutex2var_epi8(a, _mm512_load_si512(order.at), b);
}
/// 16 bytes from each of four blocks, `stride` apart. Those of the last block may lie beyond what is there.
constexpr ByteOrder order_of_parts(int stride, int offset) {
  ByteOrder order{};
  for (int i = 0; i < 64; ++i) {
    order.at[i] = static_cast<uint8_t>(i / 16 * stride + offset + i % 16);
  }
  return order;
}
/// The float16 at the head of each of four blocks, then those behind them.
constexpr ByteOrder order_of_halves(int stride) {
  ByteOrder order{};
  for (int i = 0; i < 16; ++i) {
    order.at[i] = static_cast<uint8_t>(i % 8 / 2 * stride + i / 8 * 2 + i % 2);
  }
  return order;
}

/// Which of the 64 bytes at an offset lie within the last step of a row; made once for all rows.
class LastBytes {
 public:
  explicit LastBytes(index_t bytes) {
    for (int i = 0; i < kOffsets; ++i) {
      const index_t n = max_of(0, min_of(64, bytes - kOffset[i]));
      masks_[i] = n == 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1;
    }
  }
  FUSEDLM_VEC __mmask64 at(index_t offset) const {
    for (int i = 0; i < kOffsets; ++i) {
      if (kOffset[i] == offset) return masks_[i];
    }
    __builtin_unreachable();
  }

 private:
  static constexpr int kOffsets = 4;
  static constexpr index_t kOffset[kOffsets] = {0, 56, 64, 120};
  __mmask64 masks_[kOffsets];
};
FUSEDLM_VEC __m512i bytes_at(const uint8_t* p, index_t offset) {
  return _mm512_loadu_si512(p + offset);
}
FUSEDLM_VEC __m512i bytes_at(const uint8_t* p, index_t offset, const LastBytes& last) {
  return _mm512_maskz_loadu_epi8(last.at(offset), p + offset);
}

/// Parts whose last 16 bytes lie beyond the vectors that the others came from: they are read by themselves, which
/// takes less than another vector that overlaps with these.
FUSEDLM_VEC __m512i with_last_part(__m512i parts, __m128i last) {
  return _mm512_mask_broadcast_i32x4(parts, 0xf000, last);
}
FUSEDLM_VEC __m128i part_at(const uint8_t* p, index_t offset) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + offset));
}
FUSEDLM_VEC __m128i part_at(const uint8_t* p, index_t offset, const LastBytes& last) {
  return _mm_maskz_loadu_epi8(static_cast<__mmask16>(last.at(offset)), p + offset);
}

FUSEDLM_VEC __m512i low_nibbles(__m512i bytes) {
  return _mm512_and_si512(bytes, _mm512_set1_epi8(15));
}
FUSEDLM_VEC __m512i high_nibbles(__m512i bytes) { return low_nibbles(_mm512_srli_epi16(bytes, 4)); }
/// The first 8 float16 of a vector, in two parts.
struct Halves {
  __m128 first, second;
  FUSEDLM_VEC explicit Halves(__m512i halves) {
    const __m256 floats = _mm256_cvtph_ps(_mm512_castsi512_si128(halves));
    first = _mm256_castps256_ps128(floats);
    second = _mm256_extractf128_ps(floats, 1);
  }
};
/// Each of four numbers in four lanes.
FUSEDLM_VEC Vec spread(__m128 x) {
  const __m512i order = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  return _mm512_permutexvar_ps(order, _mm512_castps128_ps512(x));
}

// 128-bit quarters of two vectors, in pairs of 64 bits: even quarters of a, then of b; odd ones.
constexpr int64_t kEvenQuarters[8] = {0, 1, 4, 5, 8, 9, 12, 13};
constexpr int64_t kOddQuarters[8] = {2, 3, 6, 7, 10, 11, 14, 15};
// The same, a and b taking turns.
constexpr int64_t kEvenInTurn[8] = {0, 1, 8, 9, 4, 5, 12, 13};
constexpr int64_t kOddInTurn[8] = {2, 3, 10, 11, 6, 7, 14, 15};
FUSEDLM_VEC __m512i quarters_by(const int64_t (&order)[8], __m512i a, __m512i b) {
  return _mm512_permutex2var_epi64(a, _mm512_loadu_si512(order), b);
}

// Sum over both vectors of q * x, lane by lane, for unsigned q.
FUSEDLM_VEC __m512i dot(__m512i first, __m512i second, const XStep& x) {
  const __m512i sums = x.coarse(x.coarse(_mm512_setzero_si512(), first, 0), second, 1);
  if (!x.is_fine()) return sums;
  return x.fine(x.fine(_mm512_slli_epi32(sums, 8), first, 0), second, 1);
}
FUSEDLM_VEC Vec add_scaled(Vec sums, __m512i dots, Vec scale) {
  return fma(Vec(_mm512_cvtepi32_ps(dots)), scale, sums);
}

/// Weights scale * q + minimum, q unsigned, of four groups.
struct WithMinimum {
  __m512i first, second;
  __m128 scale, minimum;
  FUSEDLM_VEC void add(RowSums& sums, const XStep& x) const {
    const Vec by = spread(_mm_mul_ps(scale, x.groups(x.x.scales)));
    sums.lanes = add_scaled(sums.lanes, dot(first, second, x), by);
    sums.groups = _mm_fmadd_ps(minimum, x.groups(x.x.sums), sums.groups);
  }
};

}  // namespace detail

/// Step `i` of a row: `load` reads it, or, given `last`, its bytes that are there; `add` adds its product
/// with x to the sums.
template <WeightFormat format>
struct WeightStep;

template <>
struct WeightStep<WeightFormat::int8> {
  __m512i first, second;
  template <class... Last>
  FUSEDLM_VEC void load(const uint8_t* row, index_t i, const Last&... last) {
    const uint8_t* p = row + i * kStepWeights;
    const __m512i sign = _mm512_set1_epi8(-128);
    const __m512i a = _mm512_xor_si512(detail::bytes_at(p, 0, last...), sign),
                  b = _mm512_xor_si512(detail::bytes_at(p, 64, last...), sign);
    first = detail::quarters_by(detail::kEvenQuarters, a, b);
    second = detail::quarters_by(detail::kOddQuarters, a, b);
  }
  /// 128 times the sum of x is still to be taken off: that is the same for all rows.
  FUSEDLM_VEC void add(RowSums& sums, const XStep& x) const {
    sums.lanes = detail::add_scaled(sums.lanes, detail::dot(first, second, x),
                                    detail::spread(x.groups(x.x.scales)));
  }
};

template <>
struct WeightStep<WeightFormat::q8_0> : detail::WithMinimum {
  template <class... Last>
  FUSEDLM_VEC void load(const uint8_t* row, index_t i, const Last&... last) {
    constexpr int kBytes = 34;
    static constexpr detail::ByteOrder kFirst = detail::order_of_parts(kBytes, 2),
                                       kSecond = detail::order_of_parts(kBytes, 18),
                                       kScale = detail::order_of_halves(kBytes);
    const uint8_t* p = row + i * 4 * kBytes;
    const __m512i sign = _mm512_set1_epi8(-128);
    const __m512i a = detail::bytes_at(p, 0, last...), b = detail::bytes_at(p, 64, last...);
    const __m512i others =
        detail::with_last_part(detail::bytes_by(kSecond, a, b), detail::part_at(p, 120, last...));
    first = _mm512_xor_si512(detail::bytes_by(kFirst, a, b), sign);
    second = _mm512_xor_si512(others, sign);
    scale = detail::Halves(detail::bytes_by(kScale, a, b)).first;
    minimum = _mm_mul_ps(scale, _mm_set1_ps(-128.0f));
  }
};

template <>
struct WeightStep<WeightFormat::q4_0> : detail::WithMinimum {
  template <class... Last>
  FUSEDLM_VEC void load(const uint8_t* row, index_t i, const Last&... last) {
    constexpr int kBytes = 18;
    static constexpr detail::ByteOrder kNibbles = detail::order_of_parts(kBytes, 2),
                                       kScale = detail::order_of_halves(kBytes);
    const uint8_t* p = row + i * 4 * kBytes;
    const __m512i a = detail::bytes_at(p, 0, last...);
    const __m512i nibbles =
        detail::with_last_part(detail::bytes_by(kNibbles, a), detail::part_at(p, 56, last...));
    first = detail::low_nibbles(nibbles);
    second = detail::high_nibbles(nibbles);
    scale = detail::Halves(detail::bytes_by(kScale, a)).first;
    minimum = _mm_mul_ps(scale, _mm_set1_ps(-8.0f));
  }
};

template <>
struct WeightStep<WeightFormat::q4_1> : detail::WithMinimum {
  template <class... Last>
  FUSEDLM_VEC void load(const uint8_t* row, index_t i, const Last&... last) {
    constexpr int kBytes = 20;
    static constexpr detail::ByteOrder kNibbles = detail::order_of_parts(kBytes, 4),
                                       kScales = detail::order_of_halves(kBytes);
    const uint8_t* p = row + i * 4 * kBytes;
    const __m512i a = detail::bytes_at(p, 0, last...);
    const __m512i nibbles =
        detail::with_last_part(detail::bytes_by(kNibbles, a), detail::part_at(p, 64, last...));
    first = detail::low_nibbles(nibbles);
    second = detail::high_nibbles(nibbles);
    const detail::Halves halves(detail::bytes_by(kScales, a));  // the last of them ends at byte 64
    scale = halves.first;
    minimum = halves.second;
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
    const auto floats = [](uint32_t word) {
      return _mm_cvtepi32_ps(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(static_cast<int>(word))));
    };
    scale = _mm_mul_ps(_mm_set1_ps(half_at(p)), floats(words[half]));
    minimum = _mm_mul_ps(_mm_set1_ps(-half_at(p + 2)), floats(words[2 + half]));  // is taken off
  }
};

template <>
struct WeightStep<WeightFormat::q6_k> {
  using B = Block<WeightFormat::q6_k>;
  __m512i first, second;
  __m128 first_scale, second_scale;  // groups of 16: the two vectors have scales of their own
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
    const __m128 scale = _mm_set1_ps(half_at(p + B::kScale));
    const auto floats = [&](__m128i order) {
      return _mm_mul_ps(scale, _mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_shuffle_epi8(scales, order))));
    };
    const __m128i even = _mm_cvtsi32_si128(0x06040200);
    first_scale = floats(even);
    second_scale = floats(_mm_add_epi8(even, _mm_set1_epi8(1)));
  }
  FUSEDLM_VEC void add(RowSums& sums, const XStep& x) const {
    const auto add_half = [&](__m512i q, __m128 scale, int half, const float* part) {
      __m512i dots = x.coarse(_mm512_setzero_si512(), q, half);
      if (x.is_fine()) dots = x.fine(_mm512_slli_epi32(dots, 8), q, half);
      const Vec by = detail::spread(_mm_mul_ps(scale, x.groups(x.x.scales)));
      sums.lanes = detail::add_scaled(sums.lanes, dots, by);
      const __m128 less = _mm_mul_ps(scale, _mm_set1_ps(-32.0f));
      sums.groups = _mm_fmadd_ps(less, x.groups(part), sums.groups);
    };
    add_half(first, first_scale, 0, x.x.first_sums);
    add_half(second, second_scale, 1, x.x.second_sums);
  }
};

}  // namespace fusedlm::cpu::FUSEDLM_ISA
#endif
