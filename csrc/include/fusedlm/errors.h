#pragma once
// Exceptions of the public API. Messages read "op: argument has ..., expected ...".
//
// Every op, that is every function that takes a Context, throws InvalidArgument for an argument that is missing or
// does not fit (shape, dtype, strides, device, value), Unsupported where the device or the instruction set has no
// kernel for it, OutOfMemory where scratch memory cannot be had, and DeviceError where CUDA fails. What an op throws
// besides, or for which values, is said there. The first call in a process may throw what current_isa does.
//
// What is not noexcept may also throw std::bad_alloc, when there is no memory for a list or a text. That is not
// repeated: "throws nothing" is but for this.

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

/// Memory could not be had: a workspace's, an arena's or pages of an engine's cache; Python sees MemoryError.
struct OutOfMemory : std::bad_alloc {
  explicit OutOfMemory(std::string message) noexcept : message(std::move(message)) {}
  const char* what() const noexcept override { return message.c_str(); }
  std::string message;
};

}  // namespace fusedlm
