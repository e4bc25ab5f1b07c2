#pragma once
// From the host's side of a kernel to the GPU or the emulator.
//
//   launch("layer_norm_forward", kernel<T>, grid, block, shared_bytes, ctx, args...)
//   float* partial = device_scratch<float>(ctx, count);    device memory until the call is done
//
// Launches go to the stream of `ctx` and are not waited for. A grid without blocks is skipped.
// Nothing here allocates with cudaMalloc; copy_to_host alone waits, for callers who ask for a value.

#include <string>
#include <tuple>
#include <utility>

#include "cuda/platform.h"
#include "fusedlm/device.h"
#include "fusedlm/errors.h"

namespace fusedlm::FUSEDLM_DEVICE {

/// A number of blocks as a dimension of a grid: x takes 2^31 - 1.
inline unsigned blocks_of(index_t count) {
  if (count < 0 || count > 0x7fffffff)
    throw Unsupported("a grid of " + std::to_string(count) + " blocks");
  return static_cast<unsigned>(count);
}

#if defined(__CUDACC__)

/// Throws DeviceError naming `what` unless `status` is a success.
void check_status(cudaError_t status, const char* what);
/// Memory in the order of the stream, from the context's allocator (cuda/device.cu).
void* take_scratch(Context& ctx, size_t bytes);
/// Waits for the stream and brings `bytes` from the device; not for CUDA graphs.
void copy_to_host(Context& ctx, void* to, const void* from, size_t bytes);

template <class... Parameters, class... Args>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t shared_bytes, Context& ctx, Args&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared_bytes > 48 << 10) {  // more must be asked for
    check_status(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                      cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(shared_bytes)),
                 name);
  }
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(ctx.stream)>>>(
      static_cast<Parameters>(std::forward<Args>(args))...);
  check_status(cudaGetLastError(), name);
}

#else

/// Workspace memory that starts as NaN, with room behind it that no kernel may touch.
void* take_scratch(Context& ctx, size_t bytes, size_t element);
inline void copy_to_host(Context&, void* to, const void* from, size_t bytes) {
  __builtin_memcpy(to, from, bytes);
}

template <class... Parameters, class... Args>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t shared_bytes, Context&, Args&&... args) {
  static_assert((sizeof(Parameters) + ... + 0) <= 4096, "a kernel's parameters are 4 KiB at most");
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> parameters;
  } call{kernel, {static_cast<Parameters>(std::forward<Args>(args))...}};
  emulator::run_grid({name, grid, block, shared_bytes,
                      [](const void* erased) {
                        const Call& call = *static_cast<const Call*>(erased);
                        std::apply(call.kernel, call.parameters);
                      },
                      &call, sizeof call});
}

#endif

/// `count` elements that live until the call is done; what they hold at first is anything. 256-byte
/// aligned.
template <class T>
T* device_scratch(Context& ctx, index_t count) {
#if defined(__CUDACC__)
  return static_cast<T*>(take_scratch(ctx, static_cast<size_t>(count) * sizeof(T)));
#else
  return static_cast<T*>(take_scratch(ctx, static_cast<size_t>(count) * sizeof(T), sizeof(T)));
#endif
}

}  // namespace fusedlm::FUSEDLM_DEVICE
