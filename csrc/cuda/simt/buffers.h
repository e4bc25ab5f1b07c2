#pragma once
// The global memory that kernels may touch: the arguments of the running call and its scratch. Only
// the checked build holds accesses against it.

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace fusedlm::simt {

struct Buffer {
  std::string name;
  char* data;
  size_t bytes;
  size_t element;  // bytes; conflicts between threads are looked for in these units (0: not at all)
  /// Which bytes hold something, where nothing but kernels writes; else null.
  std::shared_ptr<std::vector<bool>> written;
};

/// From now on kernels launched by this thread may touch [data, data + bytes).
void register_buffer(std::string name, void* data, size_t bytes, size_t element = 1);
/// The same for memory that holds nothing yet.
void register_scratch(void* data, size_t bytes, size_t element);
void forget_buffers();
const std::vector<Buffer>& registered_buffers();

}  // namespace fusedlm::simt
