#pragma once
// What the emulator tells the checker (checked.cpp, FUSEDLM_SIMT=CHECKED); nothing happens in an
// everyday build. Plain loads and stores of a kernel come to the checker by themselves, through the
// compiler's instrumentation; here is what the compiler cannot see.

#include <cstddef>

#include "cuda/simt/machine.h"

namespace fusedlm::simt::emulator {

enum class Access { read, write, atomic };

#if defined(FUSEDLM_SIMT_CHECKED)
constexpr bool kChecked = true;
void check_launch(const Launch& launch);
void check_block(Block& block);
/// Static shared memory came into use.
void check_static(Block& block, const StaticShared& memory);
/// The threads wait for each other here: what any did before is seen by all after.
void check_sync(Thread* const* threads, int count);
void check_access(Thread& thread, const void* address, size_t bytes, Access access,
                  const char* what, const Where& where);
/// The bytes belong to a copy in flight, until the same thread writes them.
void check_in_flight(Thread& thread, const void* address, size_t bytes);
#else
constexpr bool kChecked = false;
inline void check_launch(const Launch&) {}
inline void check_block(Block&) {}
inline void check_static(Block&, const StaticShared&) {}
inline void check_sync(Thread* const*, int) {}
inline void check_access(Thread&, const void*, size_t, Access, const char*, const Where&) {}
inline void check_in_flight(Thread&, const void*, size_t) {}
#endif

}  // namespace fusedlm::simt::emulator
