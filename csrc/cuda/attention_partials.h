#pragma once
// Few queries over many keys: blocks take parts of the keys and leave their maximum, sum and sums of
// values, which a second kernel adds up in the order of the parts (Dao et al. 2023, "Flash-Decoding").
// The number of parts follows from shapes alone; which keys a part has, from the keys that are seen.

#include "cuda/attention_problem.h"
#include "cuda/attention_softmax.h"

namespace fusedlm::FUSEDLM_DEVICE {

/// Maximum and sum of the softmax over some keys.
struct PartialSum {
  float maximum, sum;
};

struct PartialPlace {
  int b, g, tile, split;
};

/// A block for each sequence, key-value head, tile of rows and split, splits the fastest.
struct Partials {
  float* out;        // [blocks][rows of a tile][D]
  PartialSum* sums;  // [blocks][rows of a tile]
  int splits, tiles;
  index_t blocks;

  __device__ __forceinline__ PartialPlace place(const Problem& p, unsigned block) const {
    const unsigned unit = block / splits, pair = unit / tiles;
    return {static_cast<int>(pair / p.G), static_cast<int>(pair % p.G),
            static_cast<int>(unit % tiles), static_cast<int>(block % splits)};
  }
  __device__ __forceinline__ index_t row(unsigned block, int tile_rows, int row) const {
    return static_cast<index_t>(block) * tile_rows + row;
  }
};

/// Part `split` of a range, in whole tiles.
__device__ __forceinline__ Span part_of(Span range, int tile, int splits, int split) {
  const int first = range.low / tile, count = max(0, ceil_of(range.high, tile) - first);
  const int each = ceil_of(count, splits);
  const Span part{(first + split * each) * tile,
                  min(range.high, (first + (split + 1) * each) * tile)};
  return {max(range.low, part.low), part.high};
}

inline Partials plan_partials(const Problem& p, int tile_rows, int tile_keys, Context& ctx) {
  // Blocks enough to fill the largest GPU about four times over; a part is at least four tiles, that
  // its own sums are little beside the keys.
  constexpr index_t kBlocks = 512, kTilesOfPart = 4;
  Partials partials{};
  partials.tiles = ceil_of(p.T * p.R, tile_rows);
  const index_t units = static_cast<index_t>(p.sequences) * p.G * partials.tiles;
  const index_t wanted = ceil_of(kBlocks, units > 0 ? units : 1);
  const index_t most = ceil_of<index_t>(p.S, tile_keys * kTilesOfPart);
  partials.splits = static_cast<int>(wanted < most ? wanted : most);
  if (partials.splits < 1) partials.splits = 1;
  partials.blocks = units * partials.splits;
  if (partials.splits > 1) {
    partials.out = device_scratch<float>(ctx, partials.blocks * tile_rows * p.D);
    partials.sums = device_scratch<PartialSum>(ctx, partials.blocks * tile_rows);
  }
  return partials;
}

template <class T>
struct AddPartials {
  Problem p;
  Partials partials;
  Heads<T> out;
  float* lse;
  int tile_rows;
};

/// One warp a row (b, h, t): out = sum of 2^(m_i - m) out_i / sum of 2^(m_i - m) l_i.
template <class T, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp) add_partials_kernel(AddPartials<T> a) {
  const Problem& p = a.p;
  const index_t n = static_cast<index_t>(blockIdx.x) * kWarps + warp_id();
  if (n >= static_cast<index_t>(p.sequences) * p.H * p.T) return;  // only whole warps
  const int t = static_cast<int>(n % p.T), h = static_cast<int>(n / p.T % p.H),
            b = static_cast<int>(n / p.T / p.H);
  const int packed_row = t * p.R + h % p.R, splits = a.partials.splits;
  const unsigned unit = (b * p.G + h / p.R) * a.partials.tiles + packed_row / a.tile_rows;
  const auto at = [&](int split) {
    return a.partials.row(unit * splits + split, a.tile_rows, packed_row % a.tile_rows);
  };
  float maximum = -kInfinity, sum = 0.0f;
  for (int i = lane_id(); i < splits; i += kWarp) {
    maximum = fmaxf(maximum, a.partials.sums[at(i)].maximum);
  }
  maximum = warp_max(maximum);
  const float shift = maximum == -kInfinity ? 0.0f : maximum;
  for (int i = 0; i < splits; ++i) {
    const PartialSum part = a.partials.sums[at(i)];
    sum = fmaf(part.sum, fast_exp2(part.maximum - shift), sum);
  }
  using Softmax = OnlineSoftmax<1, 1>;
  if (lane_id() == 0) a.lse[n] = Softmax::log_sum_exp_of(maximum, sum);
  const float inverse = (sum == 0.0f ? 0.0f : 1.0f / sum) * p.keep_scale;
  T* out = a.out.rows(b, 0, h).at(t);
  for (int d = lane_id(); d < p.D; d += kWarp) {
    float total = 0.0f;
    for (int i = 0; i < splits; ++i) {
      const float weight = fast_exp2(a.partials.sums[at(i)].maximum - shift);
      total = fmaf(a.partials.out[at(i) * p.D + d], weight, total);
    }
    out[d] = from_float<T>(total * inverse);
  }
}

template <class T>
void add_partials(const Partials& partials, const Problem& p, int tile_rows, const Heads<T>& out,
                  float* lse, Context& ctx) {
  if (partials.splits == 1) return;
  constexpr int kWarps = 4;
  const index_t rows = static_cast<index_t>(p.sequences) * p.H * p.T;
  launch("attention_decode: parts", add_partials_kernel<T, kWarps>,
         blocks_of(ceil_of<index_t>(rows, kWarps)), kWarps * kWarp, 0, ctx,
         AddPartials<T>{p, partials, out, lse, tile_rows});
}

}  // namespace fusedlm::FUSEDLM_DEVICE
