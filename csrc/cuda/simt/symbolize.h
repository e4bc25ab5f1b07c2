#pragma once
// From the address of an instruction to its line.

#include <cstdint>
#include <string>

namespace fusedlm::simt::emulator {

/// "layer_norm.cu:57", with the lines of inlined helpers before it: "types.h:140 <
/// layer_norm.cu:57". Asks addr2line; without it the module and the offset, for addr2line
/// elsewhere.
std::string place_of_code(uintptr_t return_address);
/// An address in this library.
uintptr_t any_code();

}  // namespace fusedlm::simt::emulator
