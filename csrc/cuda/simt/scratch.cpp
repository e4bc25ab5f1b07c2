#include <cstring>

#include "cuda/launch.h"
#include "cuda/simt/buffers.h"

namespace fusedlm::simt {

void* take_scratch(Context& ctx, size_t bytes, size_t element) {
  if (bytes == 0) return nullptr;
  constexpr size_t kAlign = 256, kGap = 256;
  const size_t size = bytes + kAlign + kGap;
  const DeviceAllocator& own = ctx.device_allocator;  // as on the GPU, so that it can be tested
  char* memory = static_cast<char*>(own.allocate ? own.allocate(size, own.state)
                                                 : ctx.workspace().take_bytes(size));
  if (!memory) {
    throw OutOfMemory("scratch: " + std::to_string(bytes) +
                      " bytes could not be allocated on the device");
  }
  memory += (kAlign - reinterpret_cast<uintptr_t>(memory) % kAlign) % kAlign;
  std::memset(memory, 0xff, bytes);
  register_scratch(memory, bytes, element);
  return memory;
}

}  // namespace fusedlm::simt
