#pragma once
// The scales with which a group of weights is rounded to few levels at the least squared error. Sums run in
// 16 lanes that are added in one order, in plain arithmetic: all machines write the same bytes.

#include "cpu/weight_blocks.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

/// x to the nearest whole number within [low, high]; NaN becomes low.
FUSEDLM_VEC float nearest(float x, float low, float high) {
  x = x > low ? x : low;
  x = x < high ? x : high;
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23 leaves no fraction bits
  return (x + kMagic) - kMagic;
}

/// Rounded to the nearest float16, at most the largest one.
FUSEDLM_VEC float16 to_float16(float x) {
  const float bound = 65504.0f;
  x = x > bound ? bound : x < -bound ? -bound : x;
  const uint32_t bits = __builtin_bit_cast(uint32_t, x), size = bits & 0x7fffffff;
  uint32_t half;
  if (size < 0x38800000) {  // a denormal: 0.5 has the last place of one
    half = __builtin_bit_cast(uint32_t, __builtin_bit_cast(float, size) + 0.5f) - 0x3f000000;
  } else {
    half = (size + 0xfff + (size >> 13 & 1) - 0x38000000) >> 13;
  }
  return {static_cast<uint16_t>(half | (bits >> 16 & 0x8000))};
}

FUSEDLM_VEC float reciprocal_or_zero(float x) { return x == 0.0f ? 0.0f : 1.0f / x; }

/// term(0) + ... + term(n - 1), n a multiple of 16.
template <int n, class Term>
FUSEDLM_VEC float sum_of(Term&& term) {
  float lanes[16] = {};
  for (int i = 0; i < n; i += 16) {
    for (int l = 0; l < 16; ++l) lanes[l] += term(i + l);
  }
  for (int half = 8; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

template <int n>
FUSEDLM_VEC float squared_error(const float* x, float scale, float offset, float low, float high) {
  const float inverse = reciprocal_or_zero(scale);
  return sum_of<n>([&](int i) {
    const float e = scale * nearest((x[i] - offset) * inverse, low, high) + offset - x[i];
    return e * e;
  });
}

// Where the largest weight goes: to the last level, or up to one level within or beyond it.
constexpr int kTries = 10;
constexpr float kTryStep = 0.1f;

/// scale for x ~ scale * q, q in [low, -low - 1]; the largest magnitude goes to about `low`.
template <int n>
FUSEDLM_VEC float fit_scale(const float* x, float low) {
  float peak = 0;
  for (int i = 0; i < n; ++i)
    peak = (x[i] < 0 ? -x[i] : x[i]) > (peak < 0 ? -peak : peak) ? x[i] : peak;
  if (peak == 0) return 0;
  const float high = -low - 1;
  float best = -1, scale = peak / low;
  for (int k = -kTries; k <= kTries; ++k) {
    const float inverse = (low + kTryStep * static_cast<float>(k)) / peak;
    float q[n];
    for (int i = 0; i < n; ++i) q[i] = nearest(inverse * x[i], low, high);
    const float xq = sum_of<n>([&](int i) { return x[i] * q[i]; });
    const float qq = sum_of<n>([&](int i) { return q[i] * q[i]; });
    // The best scale for this q leaves sum(x^2) - xq^2 / qq.
    if (qq > 0 && xq * xq > best * qq) best = xq * xq / qq, scale = xq / qq;
  }
  return scale;
}

struct ScaleAndOffset {
  float scale, offset;
};

/// x ~ scale * q + offset, q in [0, levels - 1]; `negative`: the offset is at most 0.
template <int n>
FUSEDLM_VEC ScaleAndOffset fit_scale_and_offset(const float* x, int levels, bool negative) {
  float low = x[0], high = x[0];
  for (int i = 1; i < n; ++i) low = x[i] < low ? x[i] : low, high = x[i] > high ? x[i] : high;
  if (negative && low > 0) low = 0;
  if (negative && high < 0) high = 0;
  if (high == low) return {0, low};
  const float most = static_cast<float>(levels - 1), total = sum_of<n>([&](int i) { return x[i]; });
  ScaleAndOffset best{(high - low) / most, low};
  float least = squared_error<n>(x, best.scale, best.offset, 0, most);
  for (int k = -kTries; k <= kTries; ++k) {
    const float inverse = (most + kTryStep * static_cast<float>(k)) / (high - low);
    float q[n];
    for (int i = 0; i < n; ++i) q[i] = nearest(inverse * (x[i] - low), 0, most);
    const float sq = sum_of<n>([&](int i) { return q[i]; });
    const float qq = sum_of<n>([&](int i) { return q[i] * q[i]; });
    const float xq = sum_of<n>([&](int i) { return x[i] * q[i]; });
    const float spread = n * qq - sq * sq;
    if (!(spread > 0)) continue;
    ScaleAndOffset fit{(n * xq - total * sq) / spread, (qq * total - sq * xq) / spread};
    if (negative && fit.offset > 0) fit = {xq / qq, 0};
    const float error = squared_error<n>(x, fit.scale, fit.offset, 0, most);
    if (error < least) least = error, best = fit;
  }
  return best;
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
