#pragma once
// Memory that the engine holds for as long as it lives, straight from the system, to which it returns.

#include <string>

#include "core/pages.h"
#include "fusedlm/errors.h"

namespace fusedlm::engine {

class Memory {
 public:
  Memory(size_t bytes, const char* purpose)
      : data_(map_pages(in_pages(bytes))), bytes_(in_pages(bytes)) {
    if (!data_) {
      throw OutOfMemory("engine: " + std::to_string(bytes) + " bytes for " + purpose +
                        " could not be had");
    }
  }
  ~Memory() { unmap_pages(data_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  char* data() const { return static_cast<char*>(data_); }

 private:
  static size_t in_pages(size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }
  void* data_;
  size_t bytes_;
};

}  // namespace fusedlm::engine
