#pragma once
// Stores that go around the caches. An ordinary store reads a line before it overwrites it; where the
// result is larger than what the caches keep until somebody reads it, that is a third of the traffic of a
// norm (bfloat16 layer norm 4096 x 768, both ways: 1.21 against 1.35 ms).

#include "cpu/vec.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

// Smaller results are mostly found in L2 or L3 by the op that follows.
constexpr index_t kAroundBytes = index_t{4} << 20;

/// Whether rows of `out` are to be written so: large, and made of whole cache lines.
inline bool goes_around([[maybe_unused]] const TensorView& out) {
#if defined(FUSEDLM_VEC_AVX512)
  const index_t row = out.strides[0] * size_of(out.dtype);
  return out.numel() * size_of(out.dtype) >= kAroundBytes && row % 64 == 0 &&
         reinterpret_cast<uintptr_t>(out.data) % 64 == 0;
#else
  return false;
#endif
}

template <class T>
FUSEDLM_VEC void store(Vec v, T* to, bool around) {
#if defined(FUSEDLM_VEC_AVX512)
  if (around) {
    if constexpr (sizeof(T) == 2) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(to), v.rounded());
    } else {
      _mm512_stream_ps(to, v.v);
    }
    return;
  }
#endif
  (void)around;
  v.store(to);
}
template <class T>
FUSEDLM_VEC void store(Vec v, T* to, bool, index_t n) {
  v.store(to, n);
}

/// What a task stored around the caches is in memory before the task counts as done.
inline void finish_stores() {
#if defined(FUSEDLM_VEC_AVX512)
  _mm_sfence();
#endif
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
