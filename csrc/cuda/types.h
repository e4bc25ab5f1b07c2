#pragma once
// Element types in registers. Arithmetic happens in float32; half types are 16 bits in memory,
// rounded to nearest even on the way there. NaN stays NaN (some NaN: the emulator keeps payloads,
// the GPU does not).
//
//   to_float(x), from_float<T>(f)            one element
//   pair_of<T>(low, high), floats_of<T>(p)   two half elements in 32 bits, as mma holds them
//   Pack<T, N>::load(p), .store(p)           N elements in one access of 2, 4, 8 or 16 bytes
//   load_floats(p, x), store_floats(p, x)    float x[N] from and to N elements of any type
//   kPack<T>, can_pack(view)                 elements in 16 bytes, and whether rows may be read so
//   switch_float(dtype, fn)                  host: fn(float{}), fn(bfloat16{}) or fn(float16{})
//   switch_half(dtype, fn)                   host: the last two of these
//   switch_floats(dtype, beside, fn)         host: fn of both; two half types do not meet in a call

#include "cuda/platform.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#else
#include <bit>
#include <cstring>
#endif

namespace fusedlm::FUSEDLM_DEVICE {

// ---- conversions ----------------------------------------------------------------------------

__device__ __forceinline__ float to_float(float x) { return x; }

__device__ __forceinline__ float to_float(bfloat16 x) {
  return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}

#if defined(__CUDACC__)

__device__ __forceinline__ float to_float(float16 x) {
  return __half2float(__ushort_as_half(x.bits));
}
__device__ __forceinline__ uint16_t bfloat16_bits(float x) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
__device__ __forceinline__ uint16_t float16_bits(float x) {
  return __half_as_ushort(__float2half_rn(x));
}

#else

inline float to_float(float16 x) {
  // The exponent is moved by multiplication, which also normalises what was denormal.
  const unsigned magnitude = (x.bits & 0x7fffu) << 13, sign = (x.bits & 0x8000u) << 16;
  const unsigned special = (x.bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<unsigned>(scaled) | special | sign);
}
inline uint16_t bfloat16_bits(float x) {
  const auto bits = std::bit_cast<unsigned>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline uint16_t float16_bits(float x) {
  const auto bits = std::bit_cast<unsigned>(x);
  const unsigned sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and above
  if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 lines the bits up and rounds them
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<unsigned>(aligned) - 0x3f000000u));
  }
  const unsigned rounded = magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000u;
  return static_cast<uint16_t>(sign | rounded >> 13);
}

#endif

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bfloat16 from_float<bfloat16>(float x) {
  return {bfloat16_bits(x)};
}
template <>
__device__ __forceinline__ float16 from_float<float16>(float x) {
  return {float16_bits(x)};
}

/// Two half elements in one register, `low` at the lower address.
template <class T>
__device__ __forceinline__ uint32_t pair_of(float low, float high) {
  static_assert(sizeof(T) == 2, "a pair is one of half elements");
#if defined(__CUDACC__)
  uint32_t pair;
  if constexpr (std::is_same_v<T, bfloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
#else
  return from_float<T>(low).bits | static_cast<uint32_t>(from_float<T>(high).bits) << 16;
#endif
}

template <class T>
__device__ __forceinline__ float2 floats_of(uint32_t pair) {
  static_assert(sizeof(T) == 2, "a pair is one of half elements");
  return make_float2(to_float(T{static_cast<uint16_t>(pair & 0xffff)}),
                     to_float(T{static_cast<uint16_t>(pair >> 16)}));
}

// ---- wide accesses --------------------------------------------------------------------------

namespace detail {
template <int kBytes>
struct Raw;
template <>
struct Raw<2> {
  using Type = uint16_t;
};
template <>
struct Raw<4> {
  using Type = unsigned;
};
template <>
struct Raw<8> {
  using Type = uint2;
};
template <>
struct Raw<16> {
  using Type = uint4;
};
}  // namespace detail

/// N neighbouring elements; load and store are one instruction each.
template <class T, int N>
struct alignas(N * sizeof(T)) Pack {
  using Raw = typename detail::Raw<N * sizeof(T)>::Type;
  T values[N];

  /// `address` is aligned to the size of the pack.
  __device__ __forceinline__ static Pack load(const T* address FUSEDLM_WHERE) {
#if !defined(__CUDACC__)
    emulator::require_aligned(address, sizeof(Pack), "Pack::load", where);
#endif
    Pack pack;
    *reinterpret_cast<Raw*>(pack.values) = *reinterpret_cast<const Raw*>(address);
    return pack;
  }
  __device__ __forceinline__ void store(T* address FUSEDLM_WHERE) const {
#if !defined(__CUDACC__)
    emulator::require_aligned(address, sizeof(Pack), "Pack::store", where);
#endif
    *reinterpret_cast<Raw*>(address) = *reinterpret_cast<const Raw*>(values);
  }
  __device__ __forceinline__ float get(int i) const { return to_float(values[i]); }
  __device__ __forceinline__ void set(int i, float x) { values[i] = from_float<T>(x); }
};

/// Elements in the widest access, 16 bytes.
template <class T>
constexpr int kPack = 16 / sizeof(T);

/// N neighbouring elements as float32, in accesses of up to 16 bytes; `address` is aligned to
/// those.
template <int N, class T>
__device__ __forceinline__ void load_floats(const T* address, float (&x)[N] FUSEDLM_WHERE) {
  constexpr int kStep = N < kPack<T> ? N : kPack<T>;
#pragma unroll
  for (int i = 0; i < N; i += kStep) {
    const auto pack = Pack<T, kStep>::load(address + i FUSEDLM_HERE);
#pragma unroll
    for (int j = 0; j < kStep; ++j) x[i + j] = pack.get(j);
  }
}
template <int N, class T>
__device__ __forceinline__ void store_floats(T* address, const float (&x)[N] FUSEDLM_WHERE) {
  constexpr int kStep = N < kPack<T> ? N : kPack<T>;
#pragma unroll
  for (int i = 0; i < N; i += kStep) {
    Pack<T, kStep> pack;
#pragma unroll
    for (int j = 0; j < kStep; ++j) pack.set(j, x[i + j]);
    pack.store(address + i FUSEDLM_HERE);
  }
}

// ---- host -----------------------------------------------------------------------------------

/// Whether `view` is there to be read in packs of `bytes`: it starts on such a boundary, and so do
/// its rows. True for a view that is not given.
inline bool can_pack(const TensorView& view, int bytes = 16) {
  if (!view.defined()) return true;
  const index_t size = size_of(view.dtype);
  bool aligned = reinterpret_cast<uintptr_t>(view.data) % bytes == 0;
  for (int d = 0; d + 1 < view.ndim; ++d) {
    if (view.shape[d] > 1) aligned = aligned && view.strides[d] * size % bytes == 0;
  }
  return aligned;
}

template <class Fn>
void switch_half(DType dtype, Fn&& fn) {
  if (dtype == DType::bfloat16) {
    fn(bfloat16{});
  } else {
    fn(float16{});
  }
}
template <class Fn>
void switch_float(DType dtype, Fn&& fn) {
  if (dtype == DType::float32) {
    fn(float{});
  } else {
    switch_half(dtype, fn);
  }
}

/// fn(T{}, W{}): seven pairs, as core/check.h lets them through.
template <class Fn>
void switch_floats(DType dtype, DType beside, Fn&& fn) {
  switch_float(dtype, [&](auto t) {
    using T = decltype(t);
    if constexpr (std::is_same_v<T, float>) {
      switch_float(beside, [&](auto w) { fn(t, w); });
    } else if (beside == DType::float32) {
      fn(t, float{});
    } else {
      fn(t, t);
    }
  });
}

}  // namespace fusedlm::FUSEDLM_DEVICE
