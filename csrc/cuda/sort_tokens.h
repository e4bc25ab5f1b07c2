#pragma once
// Tokens sorted by row, stably, for sums that belong to a row: counting sort by 9 bits at a time,
// lowest first (Satish et al. 2009), which reads and writes the N keys once for each 9 bits of the
// vocabulary, whatever tokens occur how often. A pass is three launches: each tile counts its
// digits; one block turns the counts into where each tile's digits go; each tile places its keys.
// Counts are integers and ranks follow the lanes, so the order is the same in every run.

#include <algorithm>
#include <bit>

#include "cuda/launch.h"
#include "cuda/warp.h"

namespace fusedlm::FUSEDLM_DEVICE {

/// keys[i] is the row of token number order[i]; keys ascend, and order ascends among equal keys.
struct SortedTokens {
  const unsigned *keys = nullptr, *order = nullptr;
};

namespace sorting {

// 18 bits in two passes: vocabularies up to 262143. The counters of a block take 16 KiB.
constexpr int kDigitBits = 9;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kWarps = 8;
constexpr int kBlock = kWarps * kWarp;
// Keys of a lane: a tile of 1024 spreads the 8192 tokens of a usual batch over 8 multiprocessors.
constexpr int kItems = 4;
constexpr int kTile = kBlock * kItems;

/// What one pass reads: the tokens themselves at first, then keys and order of the pass before.
struct Pass {
  const index_t* tokens;
  const unsigned *keys, *order;
  unsigned N, V;
  index_t skipped;
  int shift;

  /// Tokens that belong to no row (skipped, or out of range) come last, as row V.
  __device__ __forceinline__ unsigned key(unsigned n) const {
    if (!tokens) return keys[n];
    const index_t token = tokens[n];
    return token < 0 || token >= V || token == skipped ? V : static_cast<unsigned>(token);
  }
  __device__ __forceinline__ unsigned digit(unsigned key) const {
    return key >> shift & (kDigits - 1);
  }
};

/// counts[tile][digit]
static __global__ void __launch_bounds__(kBlock) count_kernel(Pass a, unsigned* counts) {
  FUSEDLM_SHARED(unsigned, tile, [kDigits]);
  for (int d = threadIdx.x; d < kDigits; d += kBlock) tile[d] = 0;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const unsigned n = blockIdx.x * kTile + i * kBlock + threadIdx.x;
    if (n < a.N) atomicAdd(&tile[a.digit(a.key(n))], 1u);
  }
  __syncthreads();
  for (int d = threadIdx.x; d < kDigits; d += kBlock) {
    counts[static_cast<index_t>(blockIdx.x) * kDigits + d] = tile[d];
  }
}

/// counts[tile][digit] becomes the number of keys that go before those: of lower digits anywhere,
/// and of the same digit in earlier tiles. One thread a digit.
static __global__ void __launch_bounds__(kDigits) place_kernel(unsigned* counts, int tiles) {
  FUSEDLM_SHARED(unsigned, warp_totals, [kDigits / kWarp]);
  unsigned* mine = counts + threadIdx.x;
  unsigned total = 0;
#pragma unroll 8
  for (int t = 0; t < tiles; ++t) total += mine[static_cast<index_t>(t) * kDigits];
  const unsigned upto = warp_prefix(total);
  if (lane_id() == kWarp - 1) warp_totals[warp_id()] = upto;
  __syncthreads();
  unsigned before = upto - total;
  for (int w = 0; w < warp_id(); ++w) before += warp_totals[w];
#pragma unroll 8
  for (int t = 0; t < tiles; ++t) {
    const unsigned count = mine[static_cast<index_t>(t) * kDigits];
    mine[static_cast<index_t>(t) * kDigits] = before;
    before += count;
  }
}

/// A warp goes over its part of the tile in order. Lanes with equal digits find each other, take
/// their ranks from the warp's counter of that digit, and the lowest moves the counter on.
static __global__ void __launch_bounds__(kBlock)
    scatter_kernel(Pass a, const unsigned* places, unsigned* keys, unsigned* order) {
  FUSEDLM_SHARED(unsigned, counters, [kWarps][kDigits]);
  const int lane = lane_id(), warp = warp_id();
  for (int d = lane; d < kDigits; d += kWarp) counters[warp][d] = 0;
  __syncwarp();
  const unsigned first = blockIdx.x * kTile + warp * (kTile / kWarps) + lane;
  unsigned key[kItems], rank[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const unsigned n = first + i * kWarp;
    key[i] = n < a.N ? a.key(n) : 0;
    const unsigned digit = n < a.N ? a.digit(key[i]) : kDigits;  // past the end: equal to no digit
    const unsigned equals = __match_any_sync(kAllLanes, digit);
    const unsigned lower = equals & ((1u << lane) - 1);
    if (n < a.N) rank[i] = counters[warp][digit] + __popc(lower);
    __syncwarp();
    if (n < a.N && lower == 0) counters[warp][digit] += __popc(equals);
    __syncwarp();
  }
  __syncthreads();
  for (int d = threadIdx.x; d < kDigits; d += kBlock) {
    unsigned before = places[static_cast<index_t>(blockIdx.x) * kDigits + d];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const unsigned count = counters[w][d];
      counters[w][d] = before;
      before += count;
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const unsigned n = first + i * kWarp;
    if (n >= a.N) continue;
    const unsigned to = counters[warp][a.digit(key[i])] + rank[i];
    keys[to] = key[i];
    order[to] = a.tokens ? n : a.order[n];
  }
}

}  // namespace sorting

/// Sorts tokens [N] of a vocabulary of V; those equal to `skipped` or out of range get key V.
inline SortedTokens sort_tokens(const char* name, const index_t* tokens, index_t N, index_t V,
                                index_t skipped, Context& ctx) {
  using namespace sorting;
  if (N >= 0x7fffffff - kTile || V >= 0x7fffffff) {
    throw Unsupported(std::string(name) + ": " + std::to_string(N) + " tokens of " +
                      std::to_string(V) + " rows, on CUDA at most 2^31 of each");
  }
  if (N == 0) return {};
  const index_t tiles = ceil_of<index_t>(N, kTile);
  unsigned* counts = device_scratch<unsigned>(ctx, tiles * kDigits);
  Pass pass{.tokens = tokens,
            .keys = nullptr,
            .order = nullptr,
            .N = static_cast<unsigned>(N),
            .V = static_cast<unsigned>(V),
            .skipped = skipped,
            .shift = 0};
  unsigned* buffers[2][2] = {};  // keys and order, in turns
  // One pass at least, which finds every token out of range where there are no rows.
  const int bits = std::max<int>(1, std::bit_width(static_cast<unsigned>(V)));
  for (int turn = 0; pass.shift < bits; turn = 1 - turn, pass.shift += kDigitBits) {
    for (unsigned*& buffer : buffers[turn]) {
      if (!buffer) buffer = device_scratch<unsigned>(ctx, N);
    }
    auto [keys, order] = buffers[turn];
    launch(name, count_kernel, blocks_of(tiles), kBlock, 0, ctx, pass, counts);
    launch(name, place_kernel, 1, kDigits, 0, ctx, counts, tiles);
    launch(name, scatter_kernel, blocks_of(tiles), kBlock, 0, ctx, pass, counts, keys, order);
    pass.tokens = nullptr;
    pass.keys = keys;
    pass.order = order;
  }
  return {pass.keys, pass.order};
}

}  // namespace fusedlm::FUSEDLM_DEVICE
