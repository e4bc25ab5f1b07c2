#pragma once
// Tiles of rows in shared memory. Each row is cut into chunks of 16 bytes whose places are XORed
// with the row's number, so that reading one chunk of 8 neighbouring rows (ldmatrix), and writing or
// reading one row, each touch every bank once.

#include "cuda/attention_problem.h"
#include "cuda/ptx.h"
#include "cuda/warp.h"

namespace fusedlm::FUSEDLM_DEVICE {

/// [rows][kD] elements. Lanes that read together have rows 2^kStep apart.
template <class Element, int kWidth, int kStep = 0>
struct SharedTile {
  using T = Element;
  static constexpr int kD = kWidth;
  static constexpr int kChunk = kPack<T>, kChunks = kD / kChunk;
  static_assert(kChunks % 4 == 0, "a row is whole half-lines of 64 bytes");
  /// Place of a chunk, in elements. Where rows are odd multiples of 64 bytes, two of them already
  /// take different halves of the banks.
  static constexpr int kMixed = kChunks % 8 == 0 ? 7 : 3;  // the bits of a chunk's number in play
  __device__ __forceinline__ static int mix(int row) {
    return (kMixed == 7 ? row >> kStep : row >> (kStep + 1)) & kMixed;
  }
  __device__ __forceinline__ static int at(int row, int chunk) {
    return row * kD + (chunk ^ mix(row)) * kChunk;
  }
  /// The same for chunk `step` + `lane`, even and below 2: what depends on the thread is then one
  /// register for all steps.
  __device__ __forceinline__ static int at(int row, int step, int lane) {
    return row * kD + ((lane ^ mix(row) ^ (step & kMixed)) + (step & ~kMixed)) * kChunk;
  }
};

/// Rows of which the first `count` exist to a tile; what does not exist is 0. `row_of(i)` points at
/// row i. Asynchronous where rows start on 16 bytes; in any case there after cp_async_wait and a
/// barrier.
template <class Tile, int kRows, int kThreads, class RowOf>
__device__ __forceinline__ void load_tile(typename Tile::T* to, int count, int D, bool packed,
                                          int thread, RowOf row_of) {
  using T = typename Tile::T;
  constexpr int kTotal = kRows * Tile::kChunks;
  const auto there = [&](int row, int column) {
    return row < count ? between(0, D - column, Tile::kChunk) : 0;
  };
  if (!packed) {
#pragma unroll 1
    for (int n = thread; n < kTotal; n += kThreads) {
      const int row = n / Tile::kChunks, chunk = n % Tile::kChunks, column = chunk * Tile::kChunk;
      const int some = there(row, column);
      const T* from = row_of(row) + column;
      Pack<T, Tile::kChunk> pack;
#pragma unroll
      for (int e = 0; e < Tile::kChunk; ++e) pack.values[e] = e < some ? from[e] : T{};
      pack.store(to + Tile::at(row, chunk));
    }
    return;
  }
  // Where whole rows are as many as threads, a thread stays in its column: one address and a step.
  constexpr bool kFixed = kThreads % Tile::kChunks == 0;
  const unsigned start = thread;
#pragma unroll
  for (unsigned i = 0; i < ceil_of(kTotal, kThreads); ++i) {
    const unsigned n = i * kThreads + start;
    if (kTotal % kThreads != 0 && n >= kTotal) break;
    const int row =
        kFixed ? i * (kThreads / Tile::kChunks) + start / Tile::kChunks : n / Tile::kChunks;
    const int chunk = kFixed ? start % Tile::kChunks : n % Tile::kChunks;
    const int column = chunk * Tile::kChunk;
    // A copy of no bytes reads nothing, wherever it points.
    cp_async<16>(to + Tile::at(row, chunk), row_of(row) + column,
                 there(row, column) * static_cast<int>(sizeof(T)));
  }
}

/// `rows` [first, end) of a head.
template <class Tile, int kRows, int kThreads, class Rows>
__device__ __forceinline__ void load_tile(typename Tile::T* to, const Rows& rows, int first,
                                          int end, int D, bool packed, int thread) {
  load_tile<Tile, kRows, kThreads>(to, end - first, D, packed, thread,
                                   [&](int row) { return rows.at(first + row); });
}

/// The first `count` rows of a tile, from tile row `row0` on, to memory; by one warp.
template <class Tile, int kRows>
__device__ __forceinline__ void store_rows(const typename Tile::T* tile, int row0,
                                           const HeadRows<typename Tile::T>& rows, int first,
                                           int count, int D, bool packed) {
  using T = typename Tile::T;
  for (int n = lane_id(); n < kRows * Tile::kChunks; n += kWarp) {
    const int row = n / Tile::kChunks, chunk = n % Tile::kChunks, column = chunk * Tile::kChunk;
    if (row >= count || column >= D) continue;
    const T* from = tile + Tile::at(row0 + row, chunk);
    T* to = rows.at(first + row) + column;
    if (packed && column + Tile::kChunk <= D) {
      Pack<T, Tile::kChunk>::load(from).store(to);
    } else {
      for (int e = 0; e < min(Tile::kChunk, D - column); ++e) to[e] = from[e];
    }
  }
}

}  // namespace fusedlm::FUSEDLM_DEVICE
