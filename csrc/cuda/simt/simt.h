#pragma once
// CUDA for the C++ compiler: what a kernel file sees of the emulator. Names and meaning are CUDA's
// own; each function that waits or checks also takes the place of its call, which the reports name.
//
// Stricter than the hardware, so that what passes here does not lean on luck:
//   - __syncthreads must be reached by all threads of the block, at one line; none may have ended;
//   - a mask names exactly the lanes that come; none of them may have ended;
//   - shared memory and scratch start as NaN; what cp.async brings is there only after the wait.
// Shuffles and votes order no memory, as CUDA has it; of a warp's collectives __syncwarp alone does.
// Not emulated: one block waiting for another (blocks run one after the other), hence no fences;
// textures, clocks, cooperative groups, dynamic parallelism.

#include <cstdint>
#include <source_location>
#include <type_traits>

#include "cuda/simt/intrinsics.h"
#include "cuda/simt/machine.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

#define threadIdx (::fusedlm::simt::emulator::thread_index())
#define blockIdx (::fusedlm::simt::emulator::block_index())
#define blockDim (::fusedlm::simt::emulator::block_size())
#define gridDim (::fusedlm::simt::emulator::grid_size())

/// A shared array; the lambda gives each declaration, in each instance of a template, an id of its
/// own.
#define FUSEDLM_SHARED(type, name, dims) \
  auto& name = *::fusedlm::simt::emulator::shared_array<type dims>([] {}, #name)

// The line of a kernel that reports name: the last parameter of a helper, and how it hands it on.
#define FUSEDLM_WHERE , ::fusedlm::simt::Where where = ::fusedlm::simt::Where::current()
#define FUSEDLM_HERE , where

// The emulator's own state is none of the checker's business.
#define FUSEDLM_UNCHECKED __attribute__((no_sanitize("thread")))

namespace fusedlm::simt {
namespace emulator {

FUSEDLM_UNCHECKED inline uint3 thread_index() { return self->index; }
FUSEDLM_UNCHECKED inline uint3 block_index() { return self->block->index; }
FUSEDLM_UNCHECKED inline dim3 block_size() { return self->block->launch->block; }
FUSEDLM_UNCHECKED inline dim3 grid_size() { return self->block->launch->grid; }
/// The block's, which must be of `bytes` (csrc/cuda/platform.h).
void* dynamic_shared_memory(int bytes, const Where&);
void* static_shared_memory(int site, const char* name, size_t bytes, size_t align);

template <class Site>
inline const int site_of = new_site();

template <class Array, class Site>
Array* shared_array(Site, const char* name) {
  constexpr size_t kAlign = alignof(Array) > 16 ? alignof(Array) : 16;
  return static_cast<Array*>(static_shared_memory(site_of<Site>, name, sizeof(Array), kAlign));
}

// Values travel between lanes in 64 bits.
template <class T>
uint64_t to_bits(T value) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                "a shuffle moves 32 or 64 bits");
  if constexpr (sizeof(T) == 4) {
    return __builtin_bit_cast(uint32_t, value);
  } else {
    return __builtin_bit_cast(uint64_t, value);
  }
}
template <class T>
T from_bits(uint64_t bits) {
  if constexpr (sizeof(T) == 4) {
    return __builtin_bit_cast(T, static_cast<uint32_t>(bits));
  } else {
    return __builtin_bit_cast(T, bits);
  }
}

enum class Shuffle { index, up, down, exclusive_or };
enum class Vote { sync, ballot, any, all, add, match };
uint64_t shuffle(Shuffle kind, uint32_t mask, uint64_t value, int by, int width, const Where&);
uint64_t vote(Vote kind, uint32_t mask, uint64_t value, const Where&);
/// After the butterfly of exchanges with lane ^ 16, 8, 4, 2, 1: every lane's combined value.
uint64_t butterfly(uint64_t value, uint64_t (*combine)(uint64_t, uint64_t), const Where&);
void before_atomic(const void* address, size_t bytes, const Where&);
[[noreturn]] void misaligned(size_t bytes, const char* call, const Where&);
inline void require_aligned(const void* address, size_t bytes, const char* call,
                            const Where& where) {
  if (reinterpret_cast<uintptr_t>(address) % bytes) misaligned(bytes, call, where);
}

}  // namespace emulator

using emulator::Where;

template <class T, int kBytes>
T* dynamic_shared(Where where = Where::current()) {
  static_assert(kBytes <= 99 << 10, "what a block can have on every GPU from sm_80 on");
  return static_cast<T*>(emulator::dynamic_shared_memory(kBytes, where));
}

// Barriers of the block.
void __syncthreads(Where where = Where::current());
int __syncthreads_count(int predicate, Where where = Where::current());
int __syncthreads_or(int predicate, Where where = Where::current());
int __syncthreads_and(int predicate, Where where = Where::current());

// Collectives of a warp.
inline void __syncwarp(unsigned mask = 0xffffffffu, Where where = Where::current()) {
  emulator::vote(emulator::Vote::sync, mask, 0, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, Where where = Where::current()) {
  return static_cast<unsigned>(emulator::vote(emulator::Vote::ballot, mask, predicate != 0, where));
}
inline int __any_sync(unsigned mask, int predicate, Where where = Where::current()) {
  return static_cast<int>(emulator::vote(emulator::Vote::any, mask, predicate != 0, where));
}
inline int __all_sync(unsigned mask, int predicate, Where where = Where::current()) {
  return static_cast<int>(emulator::vote(emulator::Vote::all, mask, predicate != 0, where));
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, Where where = Where::current()) {
  return static_cast<unsigned>(
      emulator::vote(emulator::Vote::match, mask, emulator::to_bits(value), where));
}
template <class T>
T __reduce_add_sync(unsigned mask, T value, Where where = Where::current()) {
  static_assert(std::is_integral_v<T> && sizeof(T) == 4);
  return emulator::from_bits<T>(
      emulator::vote(emulator::Vote::add, mask, emulator::to_bits(value), where));
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, Where where = Where::current()) {
  return emulator::from_bits<T>(emulator::shuffle(emulator::Shuffle::index, mask,
                                                  emulator::to_bits(value), lane, width, where));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 Where where = Where::current()) {
  return emulator::from_bits<T>(emulator::shuffle(emulator::Shuffle::up, mask,
                                                  emulator::to_bits(value), static_cast<int>(delta),
                                                  width, where));
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   Where where = Where::current()) {
  return emulator::from_bits<T>(emulator::shuffle(emulator::Shuffle::down, mask,
                                                  emulator::to_bits(value), static_cast<int>(delta),
                                                  width, where));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  Where where = Where::current()) {
  return emulator::from_bits<T>(emulator::shuffle(
      emulator::Shuffle::exclusive_or, mask, emulator::to_bits(value), lane_mask, width, where));
}

// Atomics: whole across the cores that run blocks; relaxed, as in CUDA.
namespace emulator {
template <class T, class Change>
FUSEDLM_UNCHECKED T change_atomically(T* address, Change change, const Where& where) {
  before_atomic(address, sizeof(T), where);
  T before;
  __atomic_load(address, &before, __ATOMIC_RELAXED);
  for (;;) {
    T after = change(before);
    if (__atomic_compare_exchange(address, &before, &after, false, __ATOMIC_RELAXED,
                                  __ATOMIC_RELAXED)) {
      return before;
    }
  }
}
}  // namespace emulator

#define FUSEDLM_ATOMIC(name, result)                                                  \
  template <class T>                                                                  \
  T name(T* address, std::type_identity_t<T> value, Where where = Where::current()) { \
    return emulator::change_atomically(                                               \
        address,                                                                      \
        [=](T before) {                                                               \
          (void)before;                                                               \
          return static_cast<T>(result);                                              \
        },                                                                            \
        where);                                                                       \
  }
FUSEDLM_ATOMIC(atomicAdd, before + value)
FUSEDLM_ATOMIC(atomicMax, before < value ? value : before)
FUSEDLM_ATOMIC(atomicExch, value)
#undef FUSEDLM_ATOMIC
template <class T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value,
            Where where = Where::current()) {
  return emulator::change_atomically(
      address, [=](T before) { return before == expected ? value : before; }, where);
}

inline size_t __cvta_generic_to_shared(const void* address) {
  return reinterpret_cast<size_t>(address);
}

}  // namespace fusedlm::simt
