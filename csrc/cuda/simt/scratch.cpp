#include <cstring>

#include "cuda/launch.h"
#include "cuda/simt/buffers.h"

namespace fusedlm::simt {

void* take_scratch(Context& ctx, size_t bytes, size_t element) {
  if (bytes == 0) return nullptr;
  constexpr size_t kAlign = 256, kGap = 256;
  char* memory = static_cast<char*>(ctx.workspace().take_bytes(bytes + kAlign + kGap));
  memory += (kAlign - reinterpret_cast<uintptr_t>(memory) % kAlign) % kAlign;
  std::memset(memory, 0xff, bytes);
  register_scratch(memory, bytes, element);
  return memory;
}

}  // namespace fusedlm::simt
