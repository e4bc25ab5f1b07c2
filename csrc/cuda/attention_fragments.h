#pragma once
// Products of a warp on the tensor cores, operands from swizzled tiles: a warp has kAtoms x 16 rows,
// every fragment of the other operand is read once for all of them. Layouts: see ptx.h.

#include "cuda/attention_tiles.h"

namespace fusedlm::FUSEDLM_DEVICE {

/// [16 kAtoms, 8 kBlocks] float32 sums of a warp. A thread holds kRows x kColumns of them; four
/// neighbouring lanes share a row.
template <int kM, int kN>
struct WarpSums {
  static constexpr int kAtoms = kM, kBlocks = kN;
  static constexpr int kRows = 2 * kAtoms, kColumns = 2 * kBlocks, kRowLanes = 4;
  float acc[kAtoms][kBlocks][4];

  __device__ __forceinline__ float& at(int i, int j) {
    return acc[i / 2][j / 2][2 * (i % 2) + j % 2];
  }
  __device__ __forceinline__ static int row(int i) {
    return i / 2 * 16 + i % 2 * 8 + lane_id() / 4;
  }
  __device__ __forceinline__ static int column(int j) {
    return j / 2 * 8 + lane_id() % 4 * 2 + j % 2;
  }
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) at(i, j) = 0.0f;
    }
  }
};

template <class Tile>
__device__ __forceinline__ void load_rows_fragment(uint32_t (&a)[4], const typename Tile::T* tile,
                                                   int row, int step) {
  const int lane = lane_id();
  ldmatrix_x4(a, tile + Tile::at(row + lane % 16, 2 * step, lane / 16));
}

/// Rows of a tile, kept as fragments over the whole width.
template <class Tile, int kAtoms>
struct KeptRows {
  static constexpr int kUnroll = Tile::kD / 16;
  uint32_t a[kAtoms][Tile::kD / 16][4];
  __device__ __forceinline__ void load(const typename Tile::T* tile, int row) {
#pragma unroll
    for (int m = 0; m < kAtoms; ++m) {
#pragma unroll
      for (int k = 0; k < Tile::kD / 16; ++k) {
        load_rows_fragment<Tile>(a[m][k], tile, row + 16 * m, k);
      }
    }
  }
  __device__ __forceinline__ void fragment(uint32_t (&to)[4], int m, int k) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = a[m][k][i];
  }
};

/// The same, read from the tile for each product; the addresses of kSteps steps cost registers.
template <class Tile, int kSteps = 4>
struct TileRows {
  static constexpr int kUnroll = kSteps;
  const typename Tile::T* tile;
  int row;
  __device__ __forceinline__ void fragment(uint32_t (&to)[4], int m, int k) const {
    load_rows_fragment<Tile>(to, tile, row + 16 * m, k);
  }
};

/// sums = A B^T: rows of A against rows of the tile `b`, over the width.
template <class Tile, class Rows, int kAtoms, int kBlocks>
__device__ __forceinline__ void multiply_by_rows(WarpSums<kAtoms, kBlocks>& sums, const Rows& rows,
                                                 const typename Tile::T* b) {
  const int lane = lane_id();
  sums.clear();
#pragma unroll Rows::kUnroll
  for (int k = 0; k < Tile::kD / 16; ++k) {
    uint32_t a[kAtoms][4];
#pragma unroll
    for (int m = 0; m < kAtoms; ++m) rows.fragment(a[m], m, k);
#pragma unroll
    for (int n = 0; n < kBlocks; n += 2) {
      uint32_t two[4];
      ldmatrix_x4(two, b + Tile::at(8 * n + lane % 8 + lane / 16 * 8, 2 * k, lane / 8 % 2));
      const uint32_t first[2] = {two[0], two[1]}, second[2] = {two[2], two[3]};
#pragma unroll
      for (int m = 0; m < kAtoms; ++m) {
        mma_m16n8k16<typename Tile::T>(sums.acc[m][n], a[m], first);
        mma_m16n8k16<typename Tile::T>(sums.acc[m][n + 1], a[m], second);
      }
    }
  }
}

/// sums += A B with B the tile `b`, whose rows are as many as A has columns; A is rounded to T where
/// it lies: what a thread holds of a sum is what it holds of an operand.
template <class Tile, int kAtoms, int kInner, int kBlocks>
__device__ __forceinline__ void multiply_by_columns(WarpSums<kAtoms, kBlocks>& sums,
                                                    const WarpSums<kAtoms, kInner>& from,
                                                    const typename Tile::T* b) {
  using T = typename Tile::T;
  static_assert(kBlocks == Tile::kD / 8);
  const int lane = lane_id();
#pragma unroll
  for (int k = 0; k < kInner / 2; ++k) {
    uint32_t a[kAtoms][4];
#pragma unroll
    for (int m = 0; m < kAtoms; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float (&x)[4] = from.acc[m][2 * k + i / 2];
        a[m][i] = pair_of<T>(x[2 * (i % 2)], x[2 * (i % 2) + 1]);
      }
    }
#pragma unroll
    for (int n = 0; n < kBlocks; n += 2) {
      uint32_t two[4];
      ldmatrix_x4_trans(two, b + Tile::at(16 * k + lane % 16, n, lane / 16));
      const uint32_t first[2] = {two[0], two[1]}, second[2] = {two[2], two[3]};
#pragma unroll
      for (int m = 0; m < kAtoms; ++m) {
        mma_m16n8k16<T>(sums.acc[m][n], a[m], first);
        mma_m16n8k16<T>(sums.acc[m][n + 1], a[m], second);
      }
    }
  }
}

/// Sums, times a factor for each row, rounded to rows row0, row0 + 1, ... of a tile.
template <class Tile, int kAtoms, int kBlocks>
__device__ __forceinline__ void put_rows(WarpSums<kAtoms, kBlocks>& sums,
                                         const float (&factor)[2 * kAtoms], typename Tile::T* tile,
                                         int row0) {
  using T = typename Tile::T;
  using Sums = WarpSums<kAtoms, kBlocks>;
#pragma unroll
  for (int i = 0; i < Sums::kRows; ++i) {
#pragma unroll
    for (int j = 0; j < Sums::kColumns; j += 2) {
      const int column = Sums::column(j);
      T* to = tile + Tile::at(row0 + Sums::row(i), column / 8) + column % 8;
      *reinterpret_cast<uint32_t*>(to) =
          pair_of<T>(sums.at(i, j) * factor[i], sums.at(i, j + 1) * factor[i]);
    }
  }
}

}  // namespace fusedlm::FUSEDLM_DEVICE
