#pragma once
// Seconds on a clock that only goes forward.

#include <chrono>

#include "cpu/vec.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
