#pragma once
// A block's tile of a product of half types on tensor cores: each warp holds kWarpM x kWarpN of the
// sums in registers and takes its operands from shared memory by ldmatrix, one step of 16 depths
// ahead of the mma that use them, across stages as well.

#include "cuda/gemm_tiles.h"
#include "cuda/warp.h"

namespace fusedlm::FUSEDLM_DEVICE {

template <class T, Major kMajorA, Major kMajorB, int kM, int kN, int kWarpsM, int kWarpsN>
class TensorTile {
 public:
  static constexpr int kThreads = kWarpsM * kWarpsN * kWarp;
  static constexpr int kWarpM = kM / kWarpsM, kWarpN = kN / kWarpsN;
  static constexpr int kAhead = 2;  // rows whose inputs the epilogue reads together
  // Rows of the warp's tile that go through shared memory at a time: the stages hold as many.
  static constexpr int kSlabRows = 32;

  __device__ __forceinline__ static int warp_row() { return warp_id() / kWarpsN * kWarpM; }
  __device__ __forceinline__ static int warp_column() { return warp_id() % kWarpsN * kWarpN; }

  /// Adds the products of `steps` stages.
  template <class Pipeline>
  __device__ __forceinline__ void multiply(Pipeline& stages, int steps) {
    if (steps == 0) return;
    Fragments fragments[2];
    stages.next();
    fragments[0].load(stages.a(), stages.b(), 0);
    for (int step = 0; step < steps; ++step) {
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        if (k == kSteps - 1) stages.next();
        if (k < kSteps - 1 || step + 1 < steps) {
          fragments[(k + 1) % 2].load(stages.a(), stages.b(), (k + 1) % kSteps);
        }
        if (k == 0) stages.refill();
        multiply_add(fragments[k % 2]);
      }
    }
  }

  /// Sums of rows [slab * kSlabRows, ...) of the warp's tile into rows of `pitch` floats.
  template <int slab>
  __device__ __forceinline__ void put(float* rows, int pitch) const {
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int i = 0; i < kSlabRows / 16; ++i) {
#pragma unroll
      for (int j = 0; j < kWarpN / 8; ++j) {
        const float (&sums)[4] = acc_[slab * (kSlabRows / 16) + i][j];
        float* at = rows + (16 * i + g) * pitch + 8 * j + 2 * t;
        *reinterpret_cast<float2*>(at) = make_float2(sums[0], sums[1]);
        *reinterpret_cast<float2*>(at + 8 * pitch) = make_float2(sums[2], sums[3]);
      }
    }
  }

 private:
  using ShapeA = TileShape<T, kMajorA, kM>;
  using ShapeB = TileShape<T, kMajorB, kN>;
  static constexpr int kSteps = ShapeA::kDepth / 16;
  static_assert(kSteps == 2, "the fragments of a stage take turns in two sets of registers");
  static constexpr int kTilesM = kWarpM / 16, kTilesN = kWarpN / 8;

  /// 16 rows (or columns) x 16 depths, from `outer` and depth 16 * step on, as four 8x8 matrices.
  /// Matrix q has the second half of the outer dimension where bit kOuterBit of q is set, and the
  /// second half of the depths where the other bit is.
  template <class Shape, Major kMajor, int kOuterBit>
  __device__ __forceinline__ static void load_matrices(uint32_t (&r)[4], const T* tile, int outer,
                                                       int step) {
    const int line = lane_id() % 8, q = lane_id() / 8;
    const int far = q >> kOuterBit & 1, deep = q >> (1 - kOuterBit) & 1;
    if constexpr (kMajor == Major::depth) {
      ldmatrix_x4(r, tile + Shape::offset(outer + 8 * far + line, 2 * step + deep));
    } else {
      ldmatrix_x4_trans(r, tile + Shape::offset(16 * step + 8 * deep + line, outer / 8 + far));
    }
  }

  struct Fragments {
    uint32_t a[kTilesM][4], b[kTilesN][2];

    __device__ __forceinline__ void load(const T* tile_a, const T* tile_b, int step) {
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) {
        load_matrices<ShapeA, kMajorA, 0>(a[i], tile_a, warp_row() + 16 * i, step);
      }
#pragma unroll
      for (int j = 0; j < kTilesN; j += 2) {
        uint32_t pair[4];
        load_matrices<ShapeB, kMajorB, 1>(pair, tile_b, warp_column() + 8 * j, step);
#pragma unroll
        for (int i = 0; i < 4; ++i) b[j + i / 2][i % 2] = pair[i];
      }
    }
  };

  __device__ __forceinline__ void multiply_add(const Fragments& f) {
#pragma unroll
    for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
      for (int j = 0; j < kTilesN; ++j) {
        // There and back: the next row of sums starts with the B that is in the operand cache.
        const int column = i % 2 ? kTilesN - 1 - j : j;
        mma_m16n8k16<T>(acc_[i][column], f.a[i], f.b[column]);
      }
    }
  }

  float acc_[kTilesM][kTilesN][4] = {};
};

}  // namespace fusedlm::FUSEDLM_DEVICE
