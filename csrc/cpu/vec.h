#pragma once
// One vector of float32 for each instruction set, and the few operations the kernels need. Every
// kernel file is compiled once per set, inside the namespace FUSEDLM_ISA (avx512_bf16, avx512,
// avx2, neon, scalar). bfloat16 is widened on load and rounded to nearest even on store; sums are
// always float32.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/parallel.h"
#include "fusedlm/tensor.h"

#if defined(FUSEDLM_ISA_AVX512_BF16)
#define FUSEDLM_ISA avx512_bf16
#define FUSEDLM_VEC_AVX512 1
#elif defined(FUSEDLM_ISA_AVX512)
#define FUSEDLM_ISA avx512
#define FUSEDLM_VEC_AVX512 1
#elif defined(FUSEDLM_ISA_AVX2)
#define FUSEDLM_ISA avx2
#define FUSEDLM_VEC_AVX2 1
#elif defined(FUSEDLM_ISA_NEON)
#define FUSEDLM_ISA neon
#include <arm_neon.h>
#else
#define FUSEDLM_ISA scalar
#endif
#if defined(FUSEDLM_VEC_AVX512) || defined(FUSEDLM_VEC_AVX2)
#include <immintrin.h>
#endif

namespace fusedlm::cpu::FUSEDLM_ISA {

#define FUSEDLM_VEC [[gnu::always_inline]] inline

FUSEDLM_VEC float to_float(float x) { return x; }
FUSEDLM_VEC float to_float(bfloat16 x) { return __builtin_bit_cast(float, uint32_t{x.bits} << 16); }
FUSEDLM_VEC float to_float(float16 x) {
#if defined(FUSEDLM_VEC_AVX512) || defined(FUSEDLM_VEC_AVX2)
  return _cvtsh_ss(x.bits);
#else
  // Exponent and fraction in their places of a float32, whose bias is 112 larger; the product is exact
  // and right for denormals too. Infinity and NaN get the rest of the exponent.
  const uint32_t sign = uint32_t{x.bits} << 16 & 0x80000000u,
                 size = uint32_t{x.bits} << 13 & 0x0fffe000u;
  const float scaled = __builtin_bit_cast(float, size) * 0x1p112f;
  const uint32_t special = (x.bits & 0x7c00) == 0x7c00 ? 0x7f800000u : 0;
  return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, scaled) | special | sign);
#endif
}
FUSEDLM_VEC bfloat16 to_bfloat16(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  if (x != x) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
/// Weights in files begin at any byte.
template <class T>
FUSEDLM_VEC float load_unaligned(const T* p) {
  T x;
  std::memcpy(&x, p, sizeof x);
  return to_float(x);
}
template <class T>
FUSEDLM_VEC T from_float(float x) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else {
    return to_bfloat16(x);
  }
}

#if defined(FUSEDLM_VEC_AVX512)
struct Vec {
  static constexpr index_t size = 16;
  __m512 v;
  FUSEDLM_VEC Vec() : v(_mm512_setzero_ps()) {}
  FUSEDLM_VEC Vec(__m512 x) : v(x) {}
  FUSEDLM_VEC Vec(float x) : v(_mm512_set1_ps(x)) {}
  FUSEDLM_VEC static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  /// 16 elements of two bytes as float32.
  template <class T>
  FUSEDLM_VEC static Vec widened(__m256i bits) {
    if constexpr (std::is_same_v<T, bfloat16>) {
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    } else {
      return _mm512_cvtph_ps(bits);
    }
  }
  FUSEDLM_VEC static Vec load(const bfloat16* p) {
    return widened<bfloat16>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  FUSEDLM_VEC static Vec load(const float16* p) {
    return widened<float16>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  FUSEDLM_VEC static __mmask16 mask(index_t n) { return static_cast<__mmask16>((1u << n) - 1); }
  // The first n < size elements, the rest 0; nothing behind them is read or written.
  FUSEDLM_VEC static Vec load(const float* p, index_t n) {
    return _mm512_maskz_loadu_ps(mask(n), p);
  }
  FUSEDLM_VEC static Vec load(const bfloat16* p, index_t n) {
    return widened<bfloat16>(_mm256_maskz_loadu_epi16(mask(n), p));
  }
  FUSEDLM_VEC static Vec load(const float16* p, index_t n) {
    return widened<float16>(_mm256_maskz_loadu_epi16(mask(n), p));
  }
  FUSEDLM_VEC void store(float* p) const { _mm512_storeu_ps(p, v); }
  FUSEDLM_VEC void store(float* p, index_t n) const { _mm512_mask_storeu_ps(p, mask(n), v); }
  FUSEDLM_VEC __m256i rounded() const {
#if defined(FUSEDLM_ISA_AVX512_BF16)
    // VCVTNEPS2BF16 flushes denormals to zero; that is within bfloat16's accuracy rules here.
    return (__m256i)_mm512_cvtneps_pbh(v);
#else
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    up = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16));
#endif
  }
  FUSEDLM_VEC void store(bfloat16* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), rounded());
  }
  FUSEDLM_VEC void store(bfloat16* p, index_t n) const {
    _mm256_mask_storeu_epi16(p, mask(n), rounded());
  }
};
FUSEDLM_VEC Vec operator+(Vec a, Vec b) { return _mm512_add_ps(a.v, b.v); }
FUSEDLM_VEC Vec operator-(Vec a, Vec b) { return _mm512_sub_ps(a.v, b.v); }
FUSEDLM_VEC Vec operator*(Vec a, Vec b) { return _mm512_mul_ps(a.v, b.v); }
FUSEDLM_VEC Vec operator/(Vec a, Vec b) { return _mm512_div_ps(a.v, b.v); }
FUSEDLM_VEC Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
FUSEDLM_VEC Vec max(Vec a, Vec b) { return _mm512_max_ps(a.v, b.v); }
FUSEDLM_VEC Vec min(Vec a, Vec b) { return _mm512_min_ps(a.v, b.v); }
FUSEDLM_VEC Vec sqrt(Vec a) { return _mm512_sqrt_ps(a.v); }
FUSEDLM_VEC Vec abs(Vec a) { return _mm512_abs_ps(a.v); }
FUSEDLM_VEC Vec round(Vec a) {
  return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/// a < b ? x : y, lane by lane (y where either is NaN).
FUSEDLM_VEC Vec select_less(Vec a, Vec b, Vec x, Vec y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v);
}
/// x * 2^n for whole n in [-252, 252].
FUSEDLM_VEC Vec scale_by_power(Vec x, Vec n) { return _mm512_scalef_ps(x.v, n.v); }
FUSEDLM_VEC float reduce_sum(Vec a) { return _mm512_reduce_add_ps(a.v); }
FUSEDLM_VEC float reduce_max(Vec a) { return _mm512_reduce_max_ps(a.v); }

#elif defined(FUSEDLM_VEC_AVX2)
struct Vec {
  static constexpr index_t size = 8;
  __m256 v;
  FUSEDLM_VEC Vec() : v(_mm256_setzero_ps()) {}
  FUSEDLM_VEC Vec(__m256 x) : v(x) {}
  FUSEDLM_VEC Vec(float x) : v(_mm256_set1_ps(x)) {}
  FUSEDLM_VEC static Vec load(const float* p) { return _mm256_loadu_ps(p); }
  FUSEDLM_VEC static Vec load(const bfloat16* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
  }
  FUSEDLM_VEC static Vec load(const float16* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  FUSEDLM_VEC static __m256i mask(index_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  FUSEDLM_VEC static Vec load(const float* p, index_t n) { return _mm256_maskload_ps(p, mask(n)); }
  template <class T>
  FUSEDLM_VEC static Vec load(const T* p, index_t n) {
    T part[8] = {};
    for (index_t i = 0; i < n; ++i) std::memcpy(&part[i], p + i, sizeof(T));
    return load(part);
  }
  FUSEDLM_VEC void store(float* p) const { _mm256_storeu_ps(p, v); }
  FUSEDLM_VEC void store(float* p, index_t n) const { _mm256_maskstore_ps(p, mask(n), v); }
  FUSEDLM_VEC void store(bfloat16* p) const {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    up = _mm256_blendv_epi8(up, _mm256_or_si256(bits, _mm256_set1_epi32(0x400000)), nan);
    up = _mm256_srli_epi32(up, 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(up, up), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
  FUSEDLM_VEC void store(bfloat16* p, index_t n) const {
    bfloat16 part[8];
    store(part);
    for (index_t i = 0; i < n; ++i) p[i] = part[i];
  }
};
FUSEDLM_VEC Vec operator+(Vec a, Vec b) { return _mm256_add_ps(a.v, b.v); }
FUSEDLM_VEC Vec operator-(Vec a, Vec b) { return _mm256_sub_ps(a.v, b.v); }
FUSEDLM_VEC Vec operator*(Vec a, Vec b) { return _mm256_mul_ps(a.v, b.v); }
FUSEDLM_VEC Vec operator/(Vec a, Vec b) { return _mm256_div_ps(a.v, b.v); }
FUSEDLM_VEC Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
FUSEDLM_VEC Vec max(Vec a, Vec b) { return _mm256_max_ps(a.v, b.v); }
FUSEDLM_VEC Vec min(Vec a, Vec b) { return _mm256_min_ps(a.v, b.v); }
FUSEDLM_VEC Vec sqrt(Vec a) { return _mm256_sqrt_ps(a.v); }
FUSEDLM_VEC Vec abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v); }
FUSEDLM_VEC Vec round(Vec a) {
  return _mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
FUSEDLM_VEC Vec select_less(Vec a, Vec b, Vec x, Vec y) {
  return _mm256_blendv_ps(y.v, x.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ));
}
FUSEDLM_VEC Vec scale_by_power(Vec x, Vec n) {
  const __m256i whole = _mm256_cvtps_epi32(n.v);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i rest = _mm256_sub_epi32(whole, half);
  const __m256i bias = _mm256_set1_epi32(127);
  const Vec first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const Vec second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
  return x * first * second;
}
FUSEDLM_VEC float reduce_sum(Vec a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
FUSEDLM_VEC float reduce_max(Vec a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

#elif defined(FUSEDLM_ISA_NEON)
#include "cpu/vec_neon.h"
#else
// Any machine: four lanes in the compiler's own vector type (SSE2 on x86-64).
struct Vec {
  static constexpr index_t size = 4;
  typedef float Lanes __attribute__((vector_size(16)));
  typedef int32_t Bits __attribute__((vector_size(16)));
  Lanes v;
  FUSEDLM_VEC Vec() : v{0, 0, 0, 0} {}
  FUSEDLM_VEC Vec(Lanes x) : v(x) {}
  FUSEDLM_VEC Vec(float x) : v{x, x, x, x} {}
  FUSEDLM_VEC static Vec load(const float* p) {
    Lanes x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  FUSEDLM_VEC static Vec load(const bfloat16* p) {
    return Lanes{load_unaligned(p), load_unaligned(p + 1), load_unaligned(p + 2),
                 load_unaligned(p + 3)};
  }
  FUSEDLM_VEC static Vec load(const float16* p) {
    return Lanes{load_unaligned(p), load_unaligned(p + 1), load_unaligned(p + 2),
                 load_unaligned(p + 3)};
  }
  template <class T>
  FUSEDLM_VEC static Vec load(const T* p, index_t n) {
    Vec x;
    for (index_t i = 0; i < n; ++i) x.v[i] = load_unaligned(p + i);
    return x;
  }
  FUSEDLM_VEC void store(float* p) const { std::memcpy(p, &v, sizeof v); }
  FUSEDLM_VEC void store(bfloat16* p) const {
    for (int i = 0; i < 4; ++i) p[i] = to_bfloat16(v[i]);
  }
  template <class T>
  FUSEDLM_VEC void store(T* p, index_t n) const {
    for (index_t i = 0; i < n; ++i) p[i] = from_float<T>(v[i]);
  }
};
FUSEDLM_VEC Vec operator+(Vec a, Vec b) { return a.v + b.v; }
FUSEDLM_VEC Vec operator-(Vec a, Vec b) { return a.v - b.v; }
FUSEDLM_VEC Vec operator*(Vec a, Vec b) { return a.v * b.v; }
FUSEDLM_VEC Vec operator/(Vec a, Vec b) { return a.v / b.v; }
FUSEDLM_VEC Vec fma(Vec a, Vec b, Vec c) { return a.v * b.v + c.v; }
FUSEDLM_VEC Vec max(Vec a, Vec b) { return a.v > b.v ? a.v : b.v; }
FUSEDLM_VEC Vec min(Vec a, Vec b) { return a.v < b.v ? a.v : b.v; }
FUSEDLM_VEC Vec sqrt(Vec a) {
  for (int i = 0; i < 4; ++i) a.v[i] = __builtin_sqrtf(a.v[i]);
  return a;
}
FUSEDLM_VEC Vec abs(Vec a) { return a.v < 0 ? -a.v : a.v; }
FUSEDLM_VEC Vec round(Vec a) {
  // Adding 1.5 * 2^23 pushes the fraction out of the mantissa; enough for |a| < 2^22, all that exp
  // needs.
  const Vec::Lanes magic = Vec(12582912.0f).v;
  return (a.v + magic) - magic;
}
FUSEDLM_VEC Vec select_less(Vec a, Vec b, Vec x, Vec y) { return a.v < b.v ? x.v : y.v; }
FUSEDLM_VEC Vec scale_by_power(Vec x, Vec n) {
  const Vec::Bits whole = __builtin_convertvector(n.v, Vec::Bits);
  const Vec::Bits half = whole >> 1, rest = whole - half;
  const Vec::Bits first = (half + 127) << 23, second = (rest + 127) << 23;
  Vec::Lanes a, b;
  std::memcpy(&a, &first, sizeof a);
  std::memcpy(&b, &second, sizeof b);
  return x.v * a * b;
}
FUSEDLM_VEC float reduce_sum(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
FUSEDLM_VEC float reduce_max(Vec a) {
  const float low = a.v[0] > a.v[1] ? a.v[0] : a.v[1], high = a.v[2] > a.v[3] ? a.v[2] : a.v[3];
  return low > high ? low : high;
}
#endif

/// Vectors that the machine holds in registers.
#if defined(FUSEDLM_VEC_AVX512) || defined(FUSEDLM_ISA_NEON)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

/// Lane i = reduce_sum(v[i]), the same bits.
FUSEDLM_VEC Vec reduce_sums(const Vec (&v)[Vec::size]) {
#if defined(FUSEDLM_VEC_AVX512)
  // As reduce_sum adds: halves, quarters, then within a quarter; two vectors at a time become one.
  __m512 halves[8], quarters[4], pairs[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    // Which vectors, so that at the end lane n belongs to v[n].
    const int first = i / 2 + i % 2 * 8;
    const __m512 a = v[first].v, b = v[first + 4].v;
    halves[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512 a = halves[2 * i], b = halves[2 * i + 1];
    quarters[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m512d a = _mm512_castps_pd(quarters[2 * i]), b = _mm512_castps_pd(quarters[2 * i + 1]);
    pairs[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  return _mm512_add_ps(_mm512_shuffle_ps(pairs[0], pairs[1], 0x88),
                       _mm512_shuffle_ps(pairs[0], pairs[1], 0xdd));
#else
  float sums[Vec::size];
  for (int i = 0; i < Vec::size; ++i) sums[i] = reduce_sum(v[i]);
  return Vec::load(sums);
#endif
}

/// exp(x), about 1 ulp: 2^n * p(r) with |r| <= ln(2)/2 (Cody-Waite reduction, degree-6 polynomial).
/// Below -103 it is 0 and above 88.7 it is infinity; NaN stays NaN.
FUSEDLM_VEC Vec exp(Vec x) {
  const Vec low(-104.0f), high(89.0f);
  // min/max return their second operand for NaN, so x comes second.
  const Vec clamped = max(low, min(high, x));
  const Vec n = round(clamped * Vec(1.44269504088896341f));
  Vec r = fma(n, Vec(-0.693145751953125f), clamped);
  r = fma(n, Vec(-1.42860682030941723212e-6f), r);
  Vec p(1.3981999507e-3f);
  p = fma(p, r, Vec(8.3334519073e-3f));
  p = fma(p, r, Vec(4.1665795894e-2f));
  p = fma(p, r, Vec(1.6666665459e-1f));
  p = fma(p, r, Vec(5.0000001201e-1f));
  p = fma(p, r * r, r) + Vec(1.0f);
  return scale_by_power(p, n);
}

/// exp(x) = exp2(kLog2E x)
constexpr float kLog2E = 1.44269504088896341f;

namespace detail {
// 2^x by a polynomial of 2^f, |f| <= 1/2, the highest coefficient first.
template <class... Rest>
FUSEDLM_VEC Vec exp2_by(Vec x, float first, Rest... rest) {
#if defined(FUSEDLM_VEC_AVX512)
  const Vec t = max(Vec(-150.0f), x);  // NaN stays: the second operand is returned
#else
  const Vec t = max(Vec(-150.0f), min(Vec(150.0f), x));  // scale_by_power takes no more
#endif
  const Vec n = round(t), f = t - n;
  Vec p(first);
  ((p = fma(p, f, Vec(rest))), ...);
  return scale_by_power(p, n);
}
}  // namespace detail

/// 2^x, about 2 ulp for |x| below a few; 0 below -150. For the exponents of a softmax, which are at
/// most about 0 and where an absolute error of 1e-7 is what counts; shorter than exp.
FUSEDLM_VEC Vec exp2(Vec x) {
  return detail::exp2_by(x, 1.3264724985e-3f, 9.6715129912e-3f, 5.5507335812e-2f, 2.4022242427e-1f,
                         6.9314700365e-1f, 1.0f);
}

/// 2^x with a relative error of 8e-5, for what is rounded to bfloat16 (2e-3).
FUSEDLM_VEC Vec exp2_rough(Vec x) {
  return detail::exp2_by(x, 5.5171669541e-2f, 2.4261112544e-1f, 6.9326098565e-1f, 9.9992807335e-1f);
}
/// tanh(x) through exp(-2|x|); for small |x| by an odd polynomial, where the quotient would cancel.
FUSEDLM_VEC Vec tanh(Vec x) {
  const Vec a = abs(x), e = exp(Vec(-2.0f) * a);
  const Vec large = (Vec(1.0f) - e) / (Vec(1.0f) + e);
  const Vec s = x * x;
  Vec p(-5.70498872745e-3f);
  p = fma(p, s, Vec(2.06390887954e-2f));
  p = fma(p, s, Vec(-5.37397155531e-2f));
  p = fma(p, s, Vec(1.33314422036e-1f));
  p = fma(p, s, Vec(-3.33332819422e-1f));
  const Vec small = fma(p * s, x, x);
  const Vec signed_large = select_less(x, Vec(0.0f), Vec(0.0f) - large, large);
  return select_less(a, Vec(0.625f), small, signed_large);
}

/// 1 / x for 1e-30 < x < 1e30, about 1 ulp; NaN stays NaN.
FUSEDLM_VEC Vec reciprocal(Vec x) {
#if defined(FUSEDLM_VEC_AVX512)
  // 14 bits and one Newton step: three operations, where a division keeps its unit busy for ten.
  const Vec r = _mm512_rcp14_ps(x.v);
  return fma(r, Vec(1.0f) - x * r, r);
#else
  return Vec(1.0f) / x;
#endif
}

/// 1 / x with a relative error of 6e-5 where the machine has such an instruction.
FUSEDLM_VEC Vec reciprocal_rough(Vec x) {
#if defined(FUSEDLM_VEC_AVX512)
  return _mm512_rcp14_ps(x.v);
#else
  return Vec(1.0f) / x;
#endif
}

/// full(c) for each whole vector of [0, count), part(c, n) for the n < Vec::size elements left, if any;
/// one generic lambda (c, auto... n) can be both.
template <class Full, class Part>
FUSEDLM_VEC void for_each_vec(index_t count, Full&& full, Part&& part) {
  index_t c = 0;
  for (; c + Vec::size <= count; c += Vec::size) full(c);
  if (c < count) part(c, count - c);
}

/// to[i] = from[i] for i < count, each of any type that vectors are loaded from and stored to.
template <class From, class To>
FUSEDLM_VEC void convert_row(const From* from, index_t count, To* to) {
  const auto body = [&](index_t i, auto... n) { Vec::load(from + i, n...).store(to + i, n...); };
  for_each_vec(count, body, body);
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
