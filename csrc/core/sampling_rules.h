#pragma once
// What the CPU and the GPU compute alike when they draw tokens, bit for bit.
//
// Tokens rank by an integer in the order of their logits. A weight is 2^40 exp((x - best) / T), cut to
// an integer: sums of those are exact in any order, and 2^23 of them fit 64 bits. The exponential
// is a polynomial of multiplications and additions that are rounded one by one, never fused.

#include <cmath>

#include "fusedlm/sampling.h"

#if defined(__CUDACC__)
#define FUSEDLM_ALIKE __host__ __device__ __forceinline__
#else
#define FUSEDLM_ALIKE FUSEDLM_INLINE
#endif

namespace fusedlm::sampling {

constexpr index_t kMaxVocabulary = (index_t{1} << 23) - 1;
/// Bits of a weight below the best token's 1.
constexpr int kWeightBits = 40;
/// Powers of 2 below this one have weight 0 anyway.
constexpr float kLowestExponent = -64.0f;
/// 2^f for |f| <= 1/2 within 2 units in the last place, by powers of f, the highest first.
constexpr int kExp2Terms = 6;
FUSEDLM_ALIKE constexpr float exp2_coefficient(int i) {
  constexpr float coefficients[] = {1.3264724985e-3f, 9.6715129912e-3f, 5.5507335812e-2f,
                                    2.4022242427e-1f, 6.9314700365e-1f, 1.0f};
  return coefficients[i];
}

/// Keys are sorted by digits of 11, 11 and 10 bits, the highest first.
constexpr int kDigits = 3;
constexpr int kBins = 1 << 11;
FUSEDLM_ALIKE constexpr int digit_shift(int level) { return level == 0 ? 21 : level == 1 ? 10 : 0; }
FUSEDLM_ALIKE constexpr int digit_bits(int level) { return level < 2 ? 11 : 10; }

/// Rises with x; equal for -0 and 0; the largest of all for NaN.
FUSEDLM_ALIKE uint32_t key_of(float x) {
  if (x != x) return 0xffffffffu;
  const uint32_t bits = __builtin_bit_cast(uint32_t, x + 0.0f);  // -0 becomes 0
  return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}
FUSEDLM_ALIKE float value_of(uint32_t key) {
  return __builtin_bit_cast(float, key ^ (key >> 31 ? 0x80000000u : 0xffffffffu));
}
constexpr uint32_t kKeyOfMinusInfinity = 0x007fffffu, kKeyOfInfinity = 0xff800000u;

/// A power of 2 of at most 1, as a weight.
FUSEDLM_ALIKE uint64_t weight_of(float power) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, power);
  const uint32_t down = 127 - (bits >> 23);
  return (uint64_t{(bits & 0x7fffff) | 0x800000} << (kWeightBits - 23)) >> (down < 63 ? down : 63);
}

/// The least weight in whole units that is at least p of all.
FUSEDLM_ALIKE uint64_t part_of(double p, uint64_t total) {
  const double part = ceil(p * static_cast<double>(total));
  if (part < 1.0) return 1;
  const auto units = static_cast<uint64_t>(part);
  return units < total ? units : total;
}

/// The lowest key within `margin` <= 0 of the best logit.
FUSEDLM_ALIKE uint32_t lowest_key(float best, double margin) {
  const double bound = static_cast<double>(best) + margin;
  const auto rounded = static_cast<float>(bound);
  return key_of(rounded) + (static_cast<double>(rounded) < bound ? 1 : 0);
}

/// 64 random bits of Philox4x32-10. The constant keeps them apart from those of dropout.
FUSEDLM_ALIKE uint64_t random_bits(uint64_t seed, uint64_t row, uint32_t step) {
  uint32_t c0 = step, c1 = static_cast<uint32_t>(row), c2 = static_cast<uint32_t>(row >> 32),
           c3 = 0x746f6b65;  // "toke"
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return uint64_t{c1} << 32 | c0;
}

/// A number in [0, total): as far into it as `bits` are into [0, 2^64).
FUSEDLM_ALIKE uint64_t scaled_to(uint64_t total, uint64_t bits) {
#if defined(__CUDA_ARCH__)
  return __umul64hi(total, bits);
#else
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>(static_cast<Wide>(total) * bits >> 64);
#endif
}

FUSEDLM_ALIKE float log_prob(float x, float best, double temperature, uint64_t total) {
  const double above = log(static_cast<double>(total) / (uint64_t{1} << kWeightBits));
  return static_cast<float>((static_cast<double>(x) - static_cast<double>(best)) / temperature -
                            above);
}

FUSEDLM_ALIKE float penalized(float x, float penalty) {
  return x > 0.0f ? x / penalty : x * penalty;
}

/// log2(e) / T as a finite factor above 0, so that it makes no NaN of 0 and of -inf.
inline float exponent_scale(double temperature) {
  const double scale = 1.4426950408889634 / temperature;
  if (scale > 3.4028234663852886e38) return 3.4028234663852886e38f;
  return scale < 1.1754943508222875e-38 ? 1.1754943508222875e-38f : static_cast<float>(scale);
}

}  // namespace fusedlm::sampling
