// Flash attention, backward, of 16-bit elements: the gradients of keys and values. A block has one
// tile of keys of one key-value head and walks over the queries that see them, of all heads that
// share the key-value head, in order; a warp has 16 or 32 keys. Tiles are held transposed, keys down
// and queries across, so that weights and slopes are the next products' operands where they lie:
//   S^T = K Q^T    dP^T = V dO^T    dV += P^T dO    dK += dS^T Q,  dS = P * (dP - delta)
// Queries, dout and the queries' statistics come through two stages. Where dK and dV together do not
// fit the registers, a block computes one of them.

#include "cuda/attention_dropout.h"
#include "cuda/attention_kernels.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

// dK and dV take kAtoms * kD registers of a thread (half of that where they are split), S and dP
// kAtoms * kTileQ / 2 each. Shared memory stays below 99 KiB, what sm_86, sm_89 and sm_120 have, and
// up to D = 128 below 82 KiB, so that sm_80 holds two blocks.
template <int kWidth>
struct Shape {
  static constexpr int kD = kWidth;
  static constexpr bool kSplit = kD > 128;
  static constexpr int kAtoms = kD <= 64 ? 2 : 1;
  static constexpr int kWarps = kD == 96 ? 8 : 4;
  static constexpr int kTileQ = kD <= 192 ? 32 : 16;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kWarpRows = 16 * kAtoms, kTileK = kWarps * kWarpRows;
  static constexpr int kElements = (2 * kTileK + 4 * kTileQ) * kD;
  static constexpr int kStatistics = 2 * kTileQ;  // behind those
  template <class T>                              // of shared memory
  static constexpr int kBytes =
      static_cast<int>(kElements * sizeof(T) + kStatistics * sizeof(RowStatistics));
};

template <class T>
struct Keys {
  Problem p;
  Heads<const T> dout, query, key, value;
  Heads<T> dkey, dvalue;
  const RowStatistics* statistics;
};

template <class S, class T, bool kExtras>
__global__ void __launch_bounds__(S::kThreads) keys_kernel(Keys<T> a) {
  using Tile = SharedTile<T, S::kD>;
  constexpr int kTileQ = S::kTileQ, kStage = kTileQ * S::kD;
  const Problem& p = a.p;
  // Split: odd blocks dK, even ones dV.
  const bool only_keys = S::kSplit && blockIdx.x % 2, only_values = S::kSplit && !only_keys;
  const Place at =
      place_at(p, p.cu_k, p.S, S::kTileK, p.G, S::kSplit ? blockIdx.x / 2 : blockIdx.x);
  const Sequence& s = at.s;
  const int j0 = at.tile * S::kTileK, g = at.head, thread = threadIdx.x;
  if (j0 >= s.S) return;
  T* keys = dynamic_shared<T, S::template kBytes<T>>();
  T* values = keys + S::kTileK * S::kD;
  T* queries = values + S::kTileK * S::kD;  // two stages
  T* douts = queries + 2 * kStage;
  auto* statistics = reinterpret_cast<RowStatistics*>(douts + 2 * kStage);

  // Tiles of queries [first, range.high), of head after head of the group.
  const Span range = seeing_any(p.band, s, j0, min(j0 + S::kTileK, s.S) - 1);
  const int first = range.low / kTileQ * kTileQ, end = (g + 1) * p.R;
  const auto load = [&](int h, int t0, int stage) {
    load_tile<Tile, kTileQ, S::kThreads>(queries + stage * kStage, a.query.rows(s.b, s.q0, h), t0,
                                         s.T, p.D, a.query.packed, thread);
    load_tile<Tile, kTileQ, S::kThreads>(douts + stage * kStage, a.dout.rows(s.b, s.q0, h), t0, s.T,
                                         p.D, a.dout.packed, thread);
    if (thread < kTileQ) {
      // Behind the last query everything is 0, and so is what it adds to the sums.
      const index_t row = (static_cast<index_t>(s.b) * p.H + h) * p.T + s.q0 + t0 + thread;
      cp_async<8>(statistics + stage * kTileQ + thread, a.statistics + row,
                  t0 + thread < s.T ? static_cast<int>(sizeof(RowStatistics)) : 0);
    }
    cp_async_commit();
  };
  load_tile<Tile, S::kTileK, S::kThreads>(keys, a.key.rows(s.b, s.k0, g), j0, s.S, p.D,
                                          a.key.packed, thread);
  load_tile<Tile, S::kTileK, S::kThreads>(values, a.value.rows(s.b, s.k0, g), j0, s.S, p.D,
                                          a.value.packed, thread);
  int h = first < range.high ? g * p.R : end, t0 = first, stage = 0;
  if (h < end) load(h, t0, 0);
  cp_async_commit();

  // This warp's keys [j, j + rows).
  const int row = warp_id() * S::kWarpRows, j = j0 + row, rows = min(S::kWarpRows, s.S - j);
  const ScoreRules rules{p, s};
  using Scores = WarpSums<S::kAtoms, kTileQ / 8>;
  using Wide = WarpSums<S::kAtoms, S::kD / 8>;
  const TileRows<Tile, 2> key_rows{keys, row}, value_rows{values, row};
  Wide sums[S::kSplit ? 1 : 2];  // dV and dK, or one of them
#pragma unroll
  for (Wide& sum : sums) sum.clear();
  for (int next_h = h, next_t0 = t0; h < end; h = next_h, t0 = next_t0, stage ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // these queries are there, and all are done with those before
    next_t0 = t0 + kTileQ;
    if (next_t0 >= range.high) next_t0 = first, ++next_h;
    if (next_h < end) load(next_h, next_t0, stage ^ 1);
    const int t1 = min(t0 + kTileQ, s.T) - 1, j1 = j + rows - 1;
    if (rows <= 0 || all_hidden(p.band, s, t0, t1, j, j1)) continue;
    const T *query = queries + stage * kStage, *dout = douts + stage * kStage;
    const auto statistics_of = [&](int c) {
      return statistics[stage * kTileQ + Scores::column(c)];
    };
    Scores x, slopes;
    multiply_by_rows<Tile>(x, key_rows, query);
    if constexpr (kExtras) {
      if (only_values) {
        slopes.clear();
      } else {
        multiply_by_rows<Tile>(slopes, value_rows, dout);
      }
      KeptOf<Scores> kept;
      if (p.dropout) draw_transposed<Scores>(rules, kept, h, t0, j);
      Query q = rules.query(h, t0);
      for_elements<Scores>([&](int i, int c) {
        q.t = t0 + Scores::column(c);
        const Slope both = slope_of(rules, x.at(i, c), slopes.at(i, c), statistics_of(c), q,
                                    j + Scores::row(i), kept.at(i, c));
        x.at(i, c) = both.weight;
        slopes.at(i, c) = both.slope;
      });
      if (!only_keys) multiply_by_columns<Tile>(sums[0], x, dout);
    } else {
      // Weights go into their product before the slopes need registers.
      if (!all_seen(p.band, s, t0, t1, j, j1)) {
        for_elements<Scores>([&](int i, int c) {
          if (!rules.sees(t0 + Scores::column(c), j + Scores::row(i))) x.at(i, c) = -kInfinity;
        });
      }
      for_elements<Scores>([&](int i, int c) {
        x.at(i, c) = fast_exp2(fmaf(x.at(i, c), p.scale, -statistics_of(c).lse));
      });
      if (!only_keys) multiply_by_columns<Tile>(sums[0], x, dout);
      if (!only_values) {
        multiply_by_rows<Tile>(slopes, value_rows, dout);
        for_elements<Scores>([&](int i, int c) {
          slopes.at(i, c) = x.at(i, c) * (slopes.at(i, c) - statistics_of(c).delta);
        });
      }
    }
    if (!only_values) multiply_by_columns<Tile>(sums[S::kSplit ? 0 : 1], slopes, query);
  }
  if (first >= range.high) {  // nothing has waited for the keys
    cp_async_wait<0>();
    __syncthreads();
  }
  if (rows <= 0) return;
  const auto write = [&](Wide& sum, const Heads<T>& to, float scale) {
    float factor[Scores::kRows];
#pragma unroll
    for (float& x : factor) x = scale;
    __syncwarp();
    put_rows<Tile>(sum, factor, keys, row);  // the rows only this warp has read
    __syncwarp();
    store_rows<Tile, S::kWarpRows>(keys, row, to.rows(s.b, s.k0, g), j, rows, p.D, to.packed);
  };
  if (!only_keys) write(sums[0], a.dvalue, kExtras && p.dropout ? p.keep_scale : 1.0f);
  if (!only_values) write(sums[S::kSplit ? 0 : 1], a.dkey, p.slope_scale);
}

}  // namespace

void attention_dkeys_half(const AttentionBackward& args, const Problem& p,
                          const RowStatistics* statistics, Context& ctx) {
  switch_half(args.query.dtype, [&](auto type) {
    using T = decltype(type);
    const Keys<T> a{.p = p,
                    .dout = heads_of<const T>(args.dout),
                    .query = heads_of<const T>(args.query),
                    .key = heads_of<const T>(args.key),
                    .value = heads_of<const T>(args.value),
                    .dkey = heads_of<T>(args.dkey),
                    .dvalue = heads_of<T>(args.dvalue),
                    .statistics = statistics};
    switch_extras(p, [&](auto extras) {
      with_head_width<32, 64, 96, 128, 192, 256>(p.D, [&](auto width) {
        using S = Shape<decltype(width)::value>;
        launch("attention_backward: dkey, dvalue", keys_kernel<S, T, decltype(extras)::value>,
               tile_blocks(p, p.cu_k, p.S, S::kTileK, p.G * (S::kSplit ? 2 : 1)), S::kThreads,
               S::template kBytes<T>, ctx, a);
      });
    });
  });
}

}  // namespace fusedlm::FUSEDLM_DEVICE
