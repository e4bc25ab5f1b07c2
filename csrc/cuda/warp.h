#pragma once
// Sums and maxima over a warp or a block. The order of additions is fixed by the lanes, so results
// are the same bits in every run; all threads get the result. Blocks are whole warps.

#include "cuda/platform.h"

namespace fusedlm::FUSEDLM_DEVICE {

__device__ __forceinline__ int lane_id() { return threadIdx.x % kWarp; }
__device__ __forceinline__ int warp_id() { return threadIdx.x / kWarp; }

#if defined(__CUDACC__)

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int by = kWarp / 2; by > 0; by /= 2) x += __shfl_xor_sync(kAllLanes, x, by);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int by = kWarp / 2; by > 0; by /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, by));
  return x;
}

#else

// The five exchanges at one meeting of the lanes: the same bits for a fifth of the switches.
template <class T>
T warp_sum(T x FUSEDLM_WHERE) {
  const auto add = [](uint64_t a, uint64_t b) {
    return emulator::to_bits(emulator::from_bits<T>(a) + emulator::from_bits<T>(b));
  };
  return emulator::from_bits<T>(emulator::butterfly(emulator::to_bits(x), add FUSEDLM_HERE));
}
inline float warp_max(float x FUSEDLM_WHERE) {
  const auto larger = [](uint64_t a, uint64_t b) {
    return emulator::to_bits(::fmaxf(emulator::from_bits<float>(a), emulator::from_bits<float>(b)));
  };
  return emulator::from_bits<float>(emulator::butterfly(emulator::to_bits(x), larger FUSEDLM_HERE));
}

#endif

/// The sum over this lane and those below it.
template <class T>
__device__ __forceinline__ T warp_prefix(T x) {
#pragma unroll
  for (int by = 1; by < kWarp; by *= 2) {
    const T lower = __shfl_up_sync(kAllLanes, x, by);
    if (lane_id() >= by) x += lower;
  }
  return x;
}

/// Several sums over a block of `blockDim.x` threads at the price of one: each warp's, then those
/// in the order of the warps. Two barriers.
template <int K>
__device__ __forceinline__ void block_sum(float (&x)[K]) {
  FUSEDLM_SHARED(float, partial, [32][K]);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
#pragma unroll
  for (int k = 0; k < K; ++k) x[k] = warp_sum(x[k]);
  __syncthreads();  // the last use of `partial` is over
  if (lane_id() == 0) {
#pragma unroll
    for (int k = 0; k < K; ++k) partial[warp_id()][k] = x[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < K; ++k) {
    x[k] = 0.0f;
    for (int w = 0; w < warps; ++w) x[k] += partial[w][k];
  }
}

__device__ __forceinline__ float block_sum(float x) {
  float one[1] = {x};
  block_sum(one);
  return one[0];
}

__device__ __forceinline__ float block_max(float x) {
  FUSEDLM_SHARED(float, partial, [32]);
  x = warp_max(x);
  __syncthreads();
  if (lane_id() == 0) partial[warp_id()] = x;
  __syncthreads();
  x = partial[0];
  for (int w = 1; w < static_cast<int>(blockDim.x) / kWarp; ++w) x = fmaxf(x, partial[w]);
  return x;
}

}  // namespace fusedlm::FUSEDLM_DEVICE
