// Flash attention, backward, of 16-bit elements: the gradient of the queries. As in the forward a
// block has one tile of queries of one head, a warp 16 or 32 of them, and keys and values come
// through two stages of swizzled tiles:
//   S = Q K^T    dP = dO V^T    dS = exp(S - lse) * (dP - delta)    dQ += dS K
// dS is the next product's operand where it lies; the scale of the scores is applied at the end.

#include "cuda/attention_dropout.h"
#include "cuda/attention_kernels.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

// dQ takes kAtoms * kD / 2 registers of a thread, S and dP kAtoms * kTileK / 2 each. Shared memory
// stays below 99 KiB, what sm_86, sm_89 and sm_120 have, and up to D = 128 below 82 KiB, so that
// sm_80 holds two blocks.
template <int kWidth>
struct Shape {
  static constexpr int kD = kWidth;
  static constexpr int kAtoms = kD <= 96 ? 2 : 1;
  static constexpr int kWarps = 4;
  static constexpr int kTileK = kD <= 192 ? 32 : 16;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kWarpRows = 16 * kAtoms, kTileQ = kWarps * kWarpRows;
  template <class T>  // of shared memory
  static constexpr int kBytes = ((2 * kTileQ + 4 * kTileK) * kD) * static_cast<int>(sizeof(T));
};

template <class T>
struct Queries {
  Problem p;
  Heads<const T> dout, query, key, value;
  Heads<T> dquery;
  const RowStatistics* statistics;
};

template <class S, class T, bool kExtras>
__global__ void __launch_bounds__(S::kThreads) queries_kernel(Queries<T> a) {
  using Tile = SharedTile<T, S::kD>;
  constexpr int kTileK = S::kTileK, kStage = kTileK * S::kD;
  const Problem& p = a.p;
  const Place at = queries_at(p, S::kTileQ, blockIdx.x);
  const Sequence& s = at.s;
  const int t0 = at.tile * S::kTileQ, h = at.head, g = h / p.R;
  if (t0 >= s.T) return;
  T* query = dynamic_shared<T, S::template kBytes<T>>();
  T* dout = query + S::kTileQ * S::kD;
  T* keys = dout + S::kTileQ * S::kD;  // two stages
  T* values = keys + 2 * kStage;
  const int thread = threadIdx.x;
  const HeadRows<const T> key = a.key.rows(s.b, s.k0, g), value = a.value.rows(s.b, s.k0, g);
  const Span range = seen_by_any(p.band, s, t0, min(t0 + S::kTileQ, s.T) - 1);
  const auto load = [&](int j, int stage) {
    load_tile<Tile, kTileK, S::kThreads>(keys + stage * kStage, key, j, s.S, p.D, a.key.packed,
                                         thread);
    load_tile<Tile, kTileK, S::kThreads>(values + stage * kStage, value, j, s.S, p.D,
                                         a.value.packed, thread);
    cp_async_commit();
  };
  const int first = range.low / kTileK * kTileK;
  load_tile<Tile, S::kTileQ, S::kThreads>(query, a.query.rows(s.b, s.q0, h), t0, s.T, p.D,
                                          a.query.packed, thread);
  load_tile<Tile, S::kTileQ, S::kThreads>(dout, a.dout.rows(s.b, s.q0, h), t0, s.T, p.D,
                                          a.dout.packed, thread);
  if (first < range.high) load(first, 0);
  cp_async_commit();

  // This warp's queries [t, t + rows).
  const int row = warp_id() * S::kWarpRows, t = t0 + row, rows = min(S::kWarpRows, s.T - t);
  using Scores = WarpSums<S::kAtoms, kTileK / 8>;
  RowStatistics statistics[Scores::kRows];
#pragma unroll
  for (int i = 0; i < Scores::kRows; ++i) {
    statistics[i] = {kInfinity, 0.0f};  // a query that is none has weights of 0
    if (Scores::row(i) < rows) {
      statistics[i] =
          a.statistics[(static_cast<index_t>(s.b) * p.H + h) * p.T + s.q0 + t + Scores::row(i)];
    }
  }
  const ScoreRules rules{p, s};
  const auto query_of = [&](int i) { return rules.query(h, t + Scores::row(i)); };
  const TileRows<Tile> query_rows{query, row}, dout_rows{dout, row};
  WarpSums<S::kAtoms, S::kD / 8> dquery;
  dquery.clear();
  int stage = 0;
  for (int j0 = first; j0 < range.high; j0 += kTileK, stage ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // this tile is there, and all are done with the one before
    if (j0 + kTileK < range.high) load(j0 + kTileK, stage ^ 1);
    const int last = t + rows - 1, j1 = j0 + kTileK - 1;
    if (rows <= 0 || all_hidden(p.band, s, t, last, j0, j1)) continue;
    Scores x, dweights;
    multiply_by_rows<Tile>(x, query_rows, keys + stage * kStage);
    multiply_by_rows<Tile>(dweights, dout_rows, values + stage * kStage);
    KeptOf<Scores> kept;
    if (kExtras && p.dropout) draw<Scores>(rules, kept, query_of, j0);
    differentiate<kExtras>(
        rules, x, dweights, j0, !all_seen(p.band, s, t, last, j0, j1),
        [&](int i) { return statistics[i]; }, query_of,
        [&](int i, int j) { return kept.at(i, j); });
    multiply_by_columns<Tile>(dquery, dweights, keys + stage * kStage);
  }
  if (range.high <= first) {  // nothing has waited for the query
    cp_async_wait<0>();
    __syncthreads();
  }
  if (rows <= 0) return;
  float factor[Scores::kRows];
#pragma unroll
  for (float& x : factor) x = p.slope_scale;
  __syncwarp();
  put_rows<Tile>(dquery, factor, query, row);  // the rows only this warp has read
  __syncwarp();
  store_rows<Tile, S::kWarpRows>(query, row, a.dquery.rows(s.b, s.q0, h), t, rows, p.D,
                                 a.dquery.packed);
}

}  // namespace

void attention_dquery_half(const AttentionBackward& args, const Problem& p,
                           const RowStatistics* statistics, Context& ctx) {
  switch_half(args.query.dtype, [&](auto type) {
    using T = decltype(type);
    const Queries<T> a{.p = p,
                       .dout = heads_of<const T>(args.dout),
                       .query = heads_of<const T>(args.query),
                       .key = heads_of<const T>(args.key),
                       .value = heads_of<const T>(args.value),
                       .dquery = heads_of<T>(args.dquery),
                       .statistics = statistics};
    switch_extras(p, [&](auto extras) {
      with_head_width<32, 64, 96, 128, 192, 256>(p.D, [&](auto width) {
        using S = Shape<decltype(width)::value>;
        launch("attention_backward: dquery", queries_kernel<S, T, decltype(extras)::value>,
               tile_blocks(p, p.cu_q, p.T, S::kTileQ, p.H), S::kThreads, S::template kBytes<T>, ctx,
               a);
      });
    });
  });
}

}  // namespace fusedlm::FUSEDLM_DEVICE
