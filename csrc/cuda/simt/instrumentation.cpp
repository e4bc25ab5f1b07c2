// The functions that a compiler calls for -fsanitize=thread, so that no library of its own is
// linked.

#if defined(FUSEDLM_SIMT_CHECKED)

#include "cuda/simt/checked.h"

using fusedlm::simt::emulator::Access;
using fusedlm::simt::emulator::check_touch;
using fusedlm::simt::emulator::Inside;
using fusedlm::simt::emulator::self;
using fusedlm::simt::emulator::Spot;

// Outside of kernels, and in the emulator, there is nothing to check.
#define FUSEDLM_TOUCH(size, access, must_be_aligned)                    \
  if (!self || self->inside) return;                                    \
  const Inside inside;                                                  \
  Spot spot;                                                            \
  spot.code = reinterpret_cast<uintptr_t>(__builtin_return_address(0)); \
  spot.aligned = must_be_aligned;                                       \
  check_touch(*self, address, size, Access::access, spot)

#define FUSEDLM_TOUCHES(size)                                                             \
  void __tsan_read##size(void* address) { FUSEDLM_TOUCH(size, read, true); }              \
  void __tsan_write##size(void* address) { FUSEDLM_TOUCH(size, write, true); }            \
  void __tsan_unaligned_read##size(void* address) { FUSEDLM_TOUCH(size, read, false); }   \
  void __tsan_unaligned_write##size(void* address) { FUSEDLM_TOUCH(size, write, false); } \
  void __tsan_volatile_read##size(void* address) { FUSEDLM_TOUCH(size, read, true); }     \
  void __tsan_volatile_write##size(void* address) { FUSEDLM_TOUCH(size, write, true); }

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}
FUSEDLM_TOUCHES(1)
FUSEDLM_TOUCHES(2)
FUSEDLM_TOUCHES(4)
FUSEDLM_TOUCHES(8)
FUSEDLM_TOUCHES(16)
void __tsan_read_range(void* address, unsigned long size) { FUSEDLM_TOUCH(size, read, false); }
void __tsan_write_range(void* address, unsigned long size) { FUSEDLM_TOUCH(size, write, false); }
}

#endif
