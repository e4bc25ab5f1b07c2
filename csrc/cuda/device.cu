// What CUDA calls share on the host: errors by name and scratch memory. Compiled for the GPU alone;
// the emulator's side is cuda/simt/scratch.cpp.

#if defined(__CUDACC__)

#include "core/dispatch.h"
#include "cuda/launch.h"

namespace fusedlm::cuda {

void check_status(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw DeviceError(std::string(what) + ": " + cudaGetErrorString(status));
}

void* take_scratch(Context& ctx, size_t bytes) {
  if (bytes == 0) return nullptr;
  void* memory = nullptr;
  if (const DeviceAllocator& own = ctx.device_allocator; own.allocate) {
    memory = own.allocate(bytes, own.state);
  } else if (cudaMallocAsync(&memory, bytes, static_cast<cudaStream_t>(ctx.stream)) ==
             cudaSuccess) {
    ctx.device_scratch.push_back(memory);
  } else {
    cudaGetLastError();  // the failure is reported here, not by the next launch
    memory = nullptr;
  }
  if (!memory) {
    throw OutOfMemory("scratch: " + std::to_string(bytes) +
                      " bytes could not be allocated on the device");
  }
  return memory;
}

void copy_to_host(Context& ctx, void* to, const void* from, size_t bytes) {
  const auto stream = static_cast<cudaStream_t>(ctx.stream);
  check_status(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "copy to host");
  check_status(cudaStreamSynchronize(stream), "copy to host");
}

void release_scratch(Context& ctx) {
  for (void* memory : ctx.device_scratch) {
    cudaFreeAsync(memory, static_cast<cudaStream_t>(ctx.stream));
  }
  ctx.device_scratch.clear();
}

}  // namespace fusedlm::cuda

#endif
