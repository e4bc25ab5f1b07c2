#pragma once
// Exceptions of the public API. Messages read "op: argument has ..., expected ...".

#include <new>
#include <stdexcept>
#include <string>

namespace fusedlm {

/// A wrong shape, dtype, device or value; Python sees ValueError.
struct InvalidArgument : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// A sound request which this build or machine cannot carry out; Python sees NotImplementedError.
struct Unsupported : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A CUDA kernel failed, or the emulator found it wrong; Python sees RuntimeError.
struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A file that is damaged, truncated or not what it says it is; the message begins with its path. Python
/// sees fusedlm.CorruptFileError.
struct CorruptFile : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Memory of a workspace or an arena could not be had; Python sees MemoryError.
struct OutOfMemory : std::bad_alloc {
  explicit OutOfMemory(std::string message) : message(std::move(message)) {}
  const char* what() const noexcept override { return message.c_str(); }
  std::string message;
};

}  // namespace fusedlm
