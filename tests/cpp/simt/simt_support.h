#pragma once
// Launching small kernels from tests, and what the emulator says about wrong ones.

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "cuda/launch.h"
#include "cuda/simt/buffers.h"

namespace fusedlm::simt {

/// Launches with the name "test"; where `args` points at is registered by the kernel's test, or is free to
/// be touched if nothing is.
template <class... Parameters, class... Args>
void run(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
         Args&&... args) {
  if (registered_buffers().empty()) {
    // Everything that a test of instructions may have on its heap or stack.
    register_buffer("anything", reinterpret_cast<void*>(4096), (size_t{1} << 47) - 8192, 0);
    launch("test", kernel, grid, block, shared_bytes, Context::current(),
           std::forward<Args>(args)...);
    forget_buffers();
    return;
  }
  launch("test", kernel, grid, block, shared_bytes, Context::current(),
         std::forward<Args>(args)...);
}

inline const std::string kSilent = "(nothing was thrown)";

/// The message of the DeviceError that `body` throws.
template <class Body>
std::string report_of(Body&& body) {
  std::string message = kSilent;
  try {
    body();
  } catch (const DeviceError& error) {
    message = error.what();
  }
  forget_buffers();
  return message;
}

/// A right kernel and its wrong twin get the same arguments.
struct Memory {
  alignas(16) float in[256] = {};
  alignas(16) float out[256] = {};

  template <class Kernel>
  std::string report(Kernel kernel, dim3 grid = 1, dim3 block = 64, size_t shared = 0) {
    register_buffer("in", in, sizeof in, sizeof(float));
    register_buffer("out", out, sizeof out, sizeof(float));
    return report_of([&] { run(kernel, grid, block, shared, in, out); });
  }
};

/// Stands for the place that the last call of `mistake_below` told.
inline const std::string kHere = "(here)";
inline const char* file_of_mistake = "";
inline int line_of_mistake = 0;

/// What is wrong with the kernel stands in the line below; every thread says so.
FUSEDLM_UNCHECKED inline void mistake_below(const char* file = __builtin_FILE(),
                                            int line = __builtin_LINE()) {
  file_of_mistake = file;
  line_of_mistake = line + 1;
}

/// `text` contains each of the parts.
inline ::testing::AssertionResult has(const std::string& text,
                                      std::initializer_list<std::string> parts) {
  const std::string path = file_of_mistake;
  const std::string here = path.substr(path.rfind('/') + 1) + ":" + std::to_string(line_of_mistake);
  for (const std::string& wanted : parts) {
    const std::string& part = wanted == kHere ? here : wanted;
    if (text.find(part) == std::string::npos) {
      return ::testing::AssertionFailure() << "'" << part << "' is not in '" << text << "'";
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace fusedlm::simt
