#pragma once
// Between the compiler's instrumentation and the checker.

#include <cstdint>

#include "cuda/simt/checker.h"

namespace fusedlm::simt::emulator {

/// Where an access comes from: code that the compiler instrumented, or a helper and its caller's
/// line.
struct Spot {
  uintptr_t code = 0;
  const char* call = nullptr;
  const Where* where = nullptr;
  bool aligned = true;  // the access must be aligned to its size

  std::string text() const;
};

void check_touch(Thread& thread, const void* address, size_t bytes, Access access,
                 const Spot& spot);

}  // namespace fusedlm::simt::emulator
