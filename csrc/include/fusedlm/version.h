#pragma once

/// Of these headers. While the first number is 0, versions with the same second number are compatible.
/// CMake and pip read it here too.
#define FUSEDLM_VERSION "0.1.0"

namespace fusedlm {

/// FUSEDLM_VERSION of the library itself: another one than the headers' where a shared library was replaced.
const char* version() noexcept;

}  // namespace fusedlm
