#pragma once
// IEEE binary16 in integers and double: not all compilers have the type, and a second opinion on the
// conversions of the kernels.

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace fusedlm::test {

inline double float16_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double magnitude = std::ldexp(fraction, -24);
  if (exponent > 0) magnitude = std::ldexp(1024 + fraction, exponent - 25);
  if (exponent == 31) magnitude = fraction ? NAN : INFINITY;
  return bits >> 15 ? -magnitude : magnitude;
}

/// The nearest, of two the even one.
inline uint16_t float16_bits(double value) {
  const int sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::abs(value);
  if (std::isnan(value)) return 0x7e00;
  if (magnitude >= 65520.0) return static_cast<uint16_t>(sign | 0x7c00);
  const int exponent = magnitude > 0 ? std::max(std::ilogb(magnitude), -14) : -14;
  // 1024 and more for normal numbers; what rounds up to 2048 carries into the exponent.
  const auto units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return static_cast<uint16_t>(sign | ((exponent + 14) * 1024 + units));
}

}  // namespace fusedlm::test
