#pragma once
// Products of float32 tiles by a block of 16 x 16 threads. Thread (y, x) has rows y * kRows + i and
// columns x * kColumns + j of the scores. Tiles are swizzled by kColumns rows, so that the 8 lanes of
// one access, whose rows are that far apart, meet no bank twice; rows of weights are padded by 16
// bytes, so that the two rows a warp reads at a time do not share banks.

#include "cuda/attention_dropout.h"
#include "cuda/attention_tiles.h"

namespace fusedlm::FUSEDLM_DEVICE {

constexpr int kThreadSide = 16;

__device__ __forceinline__ int thread_x() { return threadIdx.x % kThreadSide; }
__device__ __forceinline__ int thread_y() { return threadIdx.x / kThreadSide; }

template <int kR, int kC>
struct ThreadSums {
  static constexpr int kRows = kR, kColumns = kC, kRowLanes = kThreadSide;
  float acc[kR][kC];
  __device__ __forceinline__ float& at(int i, int j) { return acc[i][j]; }
  __device__ __forceinline__ static int row(int i) { return thread_y() * kR + i; }
  __device__ __forceinline__ static int column(int j) { return thread_x() * kC + j; }
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kR; ++i) {
#pragma unroll
      for (int j = 0; j < kC; ++j) acc[i][j] = 0.0f;
    }
  }
};

template <int kQ, int kK, int kWidth>
struct FloatShape {
  static constexpr int kTileQ = kQ, kTileK = kK, kD = kWidth;
  static constexpr int kThreads = kThreadSide * kThreadSide;
  static constexpr int kRows = kTileQ / kThreadSide, kColumns = kTileK / kThreadSide;
  static_assert(kRows * kThreadSide == kTileQ && kColumns * kThreadSide == kTileK);
  using Tile = SharedTile<float, kD, kColumns == 4 ? 2 : kColumns == 2 ? 1 : 0>;
  using Scores = ThreadSums<kRows, kColumns>;
  // Of the width a thread has kPart neighbours every kPart * 16 columns.
  static constexpr int kPart = kD % (4 * kThreadSide) == 0 ? 4 : 2;
  static constexpr int kParts = kD / (kPart * kThreadSide);
  using Wide = ThreadSums<kRows, kParts * kPart>;         // rows of queries
  using WideKeys = ThreadSums<kColumns, kParts * kPart>;  // rows of keys, y * kColumns + i
  static constexpr int kWeightStride = kTileK + 4;

  __device__ __forceinline__ static int part_column(int c) {
    return (c * kThreadSide + thread_x()) * kPart;
  }
  __device__ __forceinline__ static const float* part(const float* tile, int row, int c) {
    const int column = part_column(c);
    return tile + Tile::at(row, column / 4) + column % 4;
  }

  /// x += rows of `a` times rows of `b`.
  __device__ __forceinline__ static void multiply_by_rows(Scores& x, const float* a,
                                                          const float* b) {
#pragma unroll 4
    for (int chunk = 0; chunk < kD / 4; ++chunk) {
      float left[kRows][4], right[kColumns][4];
#pragma unroll
      for (int i = 0; i < kRows; ++i) load_floats(a + Tile::at(Scores::row(i), chunk), left[i]);
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        load_floats(b + Tile::at(Scores::column(j), chunk), right[j]);
      }
#pragma unroll
      for (int d = 0; d < 4; ++d) {
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
#pragma unroll
          for (int j = 0; j < kColumns; ++j) {
            x.acc[i][j] = fmaf(left[i][d], right[j][d], x.acc[i][j]);
          }
        }
      }
    }
  }

  __device__ __forceinline__ static void put_weights(const Scores& x, float* weights) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      store_floats(weights + Scores::row(i) * kWeightStride + Scores::column(0), x.acc[i]);
    }
  }

  /// sums += weights times the tile: a row for each row of weights.
  __device__ __forceinline__ static void multiply_weights(Wide& sums, const float* weights,
                                                          const float* tile) {
#pragma unroll 1
    for (int k0 = 0; k0 < kTileK; k0 += 4) {
      float w[kRows][4];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        load_floats(weights + Scores::row(i) * kWeightStride + k0, w[i]);
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int c = 0; c < kParts; ++c) {
          float v[kPart];
          load_floats(part(tile, k0 + k, c), v);
#pragma unroll
          for (int i = 0; i < kRows; ++i) {
#pragma unroll
            for (int e = 0; e < kPart; ++e) {
              sums.acc[i][c * kPart + e] = fmaf(w[i][k], v[e], sums.acc[i][c * kPart + e]);
            }
          }
        }
      }
    }
  }

  /// sums += weights^T times the tile: a row for each column of weights.
  __device__ __forceinline__ static void multiply_weights_transposed(WideKeys& sums,
                                                                     const float* weights,
                                                                     const float* tile) {
#pragma unroll 2
    for (int q = 0; q < kTileQ; ++q) {
      float w[kColumns];
      load_floats(weights + q * kWeightStride + WideKeys::row(0), w);
#pragma unroll
      for (int c = 0; c < kParts; ++c) {
        float v[kPart];
        load_floats(part(tile, q, c), v);
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
#pragma unroll
          for (int e = 0; e < kPart; ++e) {
            sums.acc[i][c * kPart + e] = fmaf(w[i], v[e], sums.acc[i][c * kPart + e]);
          }
        }
      }
    }
  }

  /// Row i of this thread's sums, times a factor, to memory; `packed` where it starts on 16 bytes.
  template <class Sums>
  __device__ __forceinline__ static void store_row(const Sums& sums, int i, float* to, int D,
                                                   bool packed, float factor) {
#pragma unroll
    for (int c = 0; c < kParts; ++c) {
      const int column = part_column(c);
      float v[kPart];
#pragma unroll
      for (int e = 0; e < kPart; ++e) v[e] = sums.acc[i][c * kPart + e] * factor;
      if (packed && column + kPart <= D) {
        store_floats(to + column, v);
      } else {
#pragma unroll
        for (int e = 0; e < kPart; ++e) {
          if (column + e < D) to[column + e] = v[e];
        }
      }
    }
  }

  /// The weights dropout keeps. A thread's keys are neighbours: with four of them, one call a row.
  template <class QueryOf>
  __device__ __forceinline__ static void draw(const ScoreRules& rules, KeptOf<Scores>& kept,
                                              QueryOf query_of, int j0) {
    const int j = j0 + Scores::column(0);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const Query q = query_of(i);
      const unsigned four = kept_of_four(rules, q.head, q.t, j / 4) >> j % 4;
#pragma unroll
      for (int k = 0; k < kColumns; ++k) kept.put(i, k, four >> k & 1);
    }
  }
};

}  // namespace fusedlm::FUSEDLM_DEVICE
