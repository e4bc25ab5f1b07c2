#pragma once
// A block's tile of a float32 product: true float32 by FMA. Three products of TF32 parts would be
// faster, but tensor cores cut off what they add instead of rounding it (Ootomo & Yokota 2022,
// arXiv:2203.03341), and an error that grows with K is not float32.
//
// A warp holds 32 x 64 sums, a thread 8 x 8 of them, and takes its operands from shared
// memory in wide reads. Where an operand is contiguous along K, such a read is some depths of one
// row, and the rows of a thread lie 4 (columns: 8) apart, which meets all banks; else it is four
// neighbouring rows at one depth.

#include "cuda/gemm_tiles.h"
#include "cuda/warp.h"

namespace fusedlm::FUSEDLM_DEVICE {

template <class T, Major kMajorA, Major kMajorB, int kM, int kN, int kWarpsM, int kWarpsN>
class FmaTile {
 public:
  static constexpr int kThreads = kWarpsM * kWarpsN * kWarp;
  static constexpr int kWarpM = 32, kWarpN = 64;
  static_assert(kM == kWarpsM * kWarpM && kN == kWarpsN * kWarpN);
  static constexpr int kSlabRows = 16, kAhead = 1;  // as in TensorTile

  __device__ __forceinline__ static int warp_row() { return warp_id() / kWarpsN * kWarpM; }
  __device__ __forceinline__ static int warp_column() { return warp_id() % kWarpsN * kWarpN; }

  template <class Pipeline>
  __device__ __forceinline__ void multiply(Pipeline& stages, int steps) {
    for (int step = 0; step < steps; ++step) {
      stages.next();
      stages.refill();
#pragma unroll kUnrolled
      for (int k = 0; k < kSteps; ++k) multiply_add(stages.a(), stages.b(), k);
    }
    __syncthreads();  // the stages are free
  }

  template <int slab>
  __device__ __forceinline__ void put(float* rows, int pitch) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float* row =
          rows + (kMajorA == Major::depth ? thread_row() + 4 * i : 4 * thread_row() + i) * pitch;
      const float (&sums)[8] = acc_[4 * slab + i];
      if constexpr (kMajorB == Major::depth) {
#pragma unroll
        for (int j = 0; j < 8; ++j) row[thread_column() + 8 * j] = sums[j];
      } else {
#pragma unroll
        for (int j = 0; j < 8; j += 4) {
          *reinterpret_cast<float4*>(row + 4 * thread_column() + 8 * j) =
              make_float4(sums[j], sums[j + 1], sums[j + 2], sums[j + 3]);
        }
      }
    }
  }

 private:
  using ShapeA = TileShape<T, kMajorA, kM>;
  using ShapeB = TileShape<T, kMajorB, kN>;
  // Depths in registers, and of the loop over a stage in one piece: what 128 registers allow.
  static constexpr int kAtOnce = kMajorA == kMajorB ? 2 : 1, kUnrolled = 2 / kAtOnce;
  static constexpr int kSteps = ShapeA::kDepth / kAtOnce;

  // Of the warp's 4 x 8 threads.
  __device__ __forceinline__ static int thread_row() { return lane_id() / 8; }
  __device__ __forceinline__ static int thread_column() { return lane_id() % 8; }

  /// kAtOnce depths of one row.
  template <class Shape>
  __device__ __forceinline__ static void load_depths(const float* tile, int row, int step,
                                                     float (&x)[kAtOnce]) {
    const int depth = kAtOnce * step;
    load_floats(tile + Shape::offset(row, depth / 4) + depth % 4, x);
  }
  /// Two times four rows at one depth, kApart chunks apart.
  template <class Shape, int kApart>
  __device__ __forceinline__ static void load_outer(const float* tile, int depth, int chunk,
                                                    float (&x)[8]) {
    float low[4], high[4];
    load_floats(tile + Shape::offset(depth, chunk), low);
    load_floats(tile + Shape::offset(depth, chunk + kApart), high);
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = low[i], x[i + 4] = high[i];
  }

  /// Depths kAtOnce * step and on.
  __device__ __forceinline__ void multiply_add(const float* tile_a, const float* tile_b, int step) {
    float b[kAtOnce][8];
    if constexpr (kMajorB == Major::depth) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        float x[kAtOnce];
        load_depths<ShapeB>(tile_b, warp_column() + thread_column() + 8 * j, step, x);
#pragma unroll
        for (int d = 0; d < kAtOnce; ++d) b[d][j] = x[d];
      }
    } else {
#pragma unroll
      for (int d = 0; d < kAtOnce; ++d) {
        const int chunk = warp_column() / 4 + thread_column();
        load_outer<ShapeB, 8>(tile_b, kAtOnce * step + d, chunk, b[d]);
      }
    }
    if constexpr (kMajorA == Major::depth) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float a[kAtOnce];
        load_depths<ShapeA>(tile_a, warp_row() + thread_row() + 4 * i, step, a);
#pragma unroll
        for (int d = 0; d < kAtOnce; ++d) multiply_add_row(i, a[d], b[d]);
      }
    } else {
#pragma unroll
      for (int d = 0; d < kAtOnce; ++d) {
        float a[8];
        load_outer<ShapeA, 4>(tile_a, kAtOnce * step + d, warp_row() / 4 + thread_row(), a);
#pragma unroll
        for (int i = 0; i < 8; ++i) multiply_add_row(i, a[i], b[d]);
      }
    }
  }

  __device__ __forceinline__ void multiply_add_row(int i, float a, const float (&b)[8]) {
#pragma unroll
    for (int j = 0; j < 8; ++j) acc_[i][j] = fmaf(a, b[j], acc_[i][j]);
  }

  float acc_[8][8] = {};
};

}  // namespace fusedlm::FUSEDLM_DEVICE
