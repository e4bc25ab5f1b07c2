#pragma once
// One source, two compilers. nvcc compiles a .cu file for the GPU into namespace fusedlm::cuda; the
// C++ compiler compiles the same file into fusedlm::simt against the emulator in cuda/simt, which
// runs every CUDA thread as a fiber. Kernels see no difference but three words:
//   namespace fusedlm::FUSEDLM_DEVICE { ... }        what a .cu file opens
//   FUSEDLM_SHARED(float, tile, [32][33]);           __shared__ float tile[32][33], 16-byte aligned
//   T* buffer = dynamic_shared<T, bytes>();          the launch's shared memory, 128-byte aligned

#include "fusedlm/tensor.h"

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define FUSEDLM_DEVICE cuda
#define FUSEDLM_SHARED(type, name, dims) __shared__ __align__(16) type name dims
// The line of a kernel that the emulator's reports name; helpers hand it on. Nothing on the GPU.
#define FUSEDLM_WHERE
#define FUSEDLM_HERE

namespace fusedlm::cuda {

template <class T, int kBytes>
__device__ __forceinline__ T* dynamic_shared() {
  static_assert(kBytes <= 99 << 10, "what a block can have on every GPU from sm_80 on");
#ifdef FUSEDLM_SHOW_SHARED  // for tools/cuda_report.py, which finds the comment in the PTX
  asm volatile("// dynamic shared memory: %0 bytes" ::"n"(kBytes));
#endif
  extern __shared__ __align__(128) unsigned char fusedlm_dynamic_shared[];
  return reinterpret_cast<T*>(fusedlm_dynamic_shared);
}

}  // namespace fusedlm::cuda

#else

#define FUSEDLM_DEVICE simt
#include "cuda/simt/simt.h"

#endif

namespace fusedlm::FUSEDLM_DEVICE {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

/// Small whole numbers for grids and loops, on both sides.
template <class T>
__host__ __device__ constexpr T ceil_of(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace fusedlm::FUSEDLM_DEVICE
