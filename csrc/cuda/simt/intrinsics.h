#pragma once
// The arithmetic of CUDA that C++ lacks. Fast approximations (__expf, __fdividef) are computed
// exactly here: a kernel must not depend on which way they are off.

#include <bit>
#include <cmath>
#include <cstdint>

namespace fusedlm::simt {

inline float __expf(float x) { return ::expf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }

inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned x, unsigned y) {
  return static_cast<unsigned>(uint64_t{x} * y >> 32);
}

// Mixed arguments are not accepted, unlike in CUDA: what they would convert to is a common
// surprise.
#define FUSEDLM_MIN_MAX(T)                            \
  constexpr T min(T a, T b) { return b < a ? b : a; } \
  constexpr T max(T a, T b) { return a < b ? b : a; }
FUSEDLM_MIN_MAX(int)
FUSEDLM_MIN_MAX(unsigned)
FUSEDLM_MIN_MAX(long)
FUSEDLM_MIN_MAX(unsigned long)
FUSEDLM_MIN_MAX(long long)
FUSEDLM_MIN_MAX(unsigned long long)
#undef FUSEDLM_MIN_MAX
inline float min(float a, float b) { return ::fminf(a, b); }
inline float max(float a, float b) { return ::fmaxf(a, b); }
inline double min(double a, double b) { return ::fmin(a, b); }
inline double max(double a, double b) { return ::fmax(a, b); }

}  // namespace fusedlm::simt
