// Flash attention, forward, of 16-bit elements on the tensor cores (Dao 2023, arXiv:2307.08691).
// A block has one tile of queries of one head and walks over the tiles of keys that some of them
// see. A warp has 16 or 32 queries to itself:
//   S = Q K^T    online softmax    O = O * 2^(m_old - m) + P V
// S, P and O stay in its registers; P is the next product's operand where it lies. Keys and values
// come through cp.async into swizzled tiles, the next ones while these are multiplied. Tiles that
// causality or the window hide are not loaded, and only those at an edge are compared.

#include "cuda/attention_dropout.h"
#include "cuda/attention_kernels.h"
#include "cuda/attention_softmax.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

// Two tiles of 16 queries for each warp halve the reads of keys and values from shared memory, which
// else take as long as the products. O takes kAtoms * kD / 2 registers of a thread and S
// kAtoms * kTileK / 2; both stay below 200. Shared memory stays below 99 KiB, what sm_86, sm_89 and
// sm_120 have, and below 82 KiB up to D = 128, so that sm_80 holds two blocks.
template <int kWidth>
struct Shape {
  static constexpr int kD = kWidth;
  static constexpr int kAtoms = kD <= 128 ? 2 : 1;
  static constexpr int kWarps = kD == 192 ? 8 : 4;
  static constexpr int kTileK = kD <= 64 ? 64 : 32;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kWarpRows = 16 * kAtoms, kTileQ = kWarps * kWarpRows;
  template <class T>  // of shared memory
  static constexpr int kBytes = ((kTileQ + 4 * kTileK) * kD) * static_cast<int>(sizeof(T));
};

template <class T>
struct Forward {
  Problem p;
  Heads<const T> query, key, value;
  Heads<T> out;
  float* lse;
};

// The query's fragments of a warp: from registers where those are to spare, or from the tile each time.
template <class S, Variant kVariant>
constexpr bool kKeepQuery = S::kD <= 64 && kVariant == Variant::plain;
template <class S, Variant kVariant, class Tile>
using QueryRows =
    std::conditional_t<kKeepQuery<S, kVariant>, KeptRows<Tile, S::kAtoms>, TileRows<Tile>>;

template <class S, class T, Variant kVariant>
__global__ void __launch_bounds__(S::kThreads, least_blocks(kVariant))
    forward_kernel(Forward<T> a) {
  using Tile = SharedTile<T, S::kD>;
  constexpr int kTileK = S::kTileK, kStage = kTileK * S::kD;
  const Problem& p = a.p;
  const Place at = queries_at(p, S::kTileQ, blockIdx.x);
  const Sequence& s = at.s;
  const int t0 = at.tile * S::kTileQ, h = at.head, g = h / p.R;
  if (t0 >= s.T) return;
  T* query = dynamic_shared<T, S::template kBytes<T>>();
  T* keys = query + S::kTileQ * S::kD;  // two stages
  T* values = keys + 2 * kStage;
  const int thread = threadIdx.x;
  const auto key = keys_of<kVariant>(p, a.key, s, g), value = keys_of<kVariant>(p, a.value, s, g);
  const Span range = seen_by_any(p.band, s, t0, min(t0 + S::kTileQ, s.T) - 1);
  const auto load = [&](int j, int stage) {
    load_tile<Tile, kTileK, S::kThreads>(keys + stage, key, j, s.S, p.D, a.key.packed, thread);
    load_tile<Tile, kTileK, S::kThreads>(values + stage, value, j, s.S, p.D, a.value.packed,
                                         thread);
    cp_async_commit();
  };
  const int first = range.low / kTileK * kTileK;
  load_tile<Tile, S::kTileQ, S::kThreads>(query, a.query.rows(s.b, s.q0, h), t0, s.T, p.D,
                                          a.query.packed, thread);
  cp_async_commit();
  if (first < range.high) load(first, 0);

  // This warp's queries [t, t + rows).
  const int row = warp_id() * S::kWarpRows, t = t0 + row, rows = min(S::kWarpRows, s.T - t);
  const ScoreRules rules{p, s};
  QueryRows<S, kVariant, Tile> query_rows;
  if constexpr (kKeepQuery<S, kVariant>) {
    if (first < range.high) {
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    query_rows.load(query, row);
  } else {
    query_rows = {query, row};
  }
  using Scores = WarpSums<S::kAtoms, kTileK / 8>;
  OnlineSoftmax<Scores::kRows, Scores::kRowLanes> softmax;
  WarpSums<S::kAtoms, S::kD / 8> out;
  out.clear();
  int stage = 0;  // where it starts: a register less than its number
  for (int j0 = first; j0 < range.high; j0 += kTileK, stage ^= kStage) {
    cp_async_wait<0>();
    __syncthreads();  // this tile is there, and all are done with the one before
    if (j0 + kTileK < range.high) load(j0 + kTileK, stage ^ kStage);
    const int last = t + rows - 1, j1 = j0 + kTileK - 1;
    if (rows <= 0 || all_hidden(p.band, s, t, last, j0, j1)) continue;
    Scores x;
    multiply_by_rows<Tile>(x, query_rows, keys + stage);
    const auto query_of = [&](int i) { return rules.query(h, t + Scores::row(i)); };
    const float scale =
        prepare_scores<kVariant>(rules, x, !all_seen(p.band, s, t, last, j0, j1), query_of,
                                 [&](int j) { return j0 + Scores::column(j); });
    float factor[Scores::kRows];
    if (softmax.add(x, scale, factor)) {
#pragma unroll
      for (int i = 0; i < out.kRows; ++i) {
#pragma unroll
        for (int d = 0; d < out.kColumns; ++d) out.at(i, d) *= factor[i];
      }
    }
    if constexpr (kVariant != Variant::plain) {
      if (p.dropout) {
        KeptOf<Scores> kept;
        draw<Scores>(rules, kept, query_of, j0);
        kept.drop_from(x);
      }
    }
    multiply_by_columns<Tile>(out, x, values + stage);
  }
  if (range.high <= first) {  // nothing has waited for the query
    cp_async_wait<0>();
    __syncthreads();
  }
  if (rows <= 0) return;

  softmax.finish();
  float factor[Scores::kRows];
#pragma unroll
  for (int i = 0; i < Scores::kRows; ++i) {
    factor[i] =
        softmax.inverse(i) * (kVariant != Variant::plain && p.dropout ? p.keep_scale : 1.0f);
    if (lane_id() % Scores::kRowLanes == 0 && Scores::row(i) < rows) {
      a.lse[(static_cast<index_t>(s.b) * p.H + h) * p.T + s.q0 + t + Scores::row(i)] =
          softmax.log_sum_exp(i);
    }
  }
  __syncwarp();
  put_rows<Tile>(out, factor, query, row);  // the rows only this warp has read
  __syncwarp();
  store_rows<Tile, S::kWarpRows>(query, row, a.out.rows(s.b, s.q0, h), t, rows, p.D, a.out.packed);
}

}  // namespace

void attention_forward_half(const AttentionForward& args, const Problem& p, Context& ctx) {
  switch_half(args.query.dtype, [&](auto type) {
    using T = decltype(type);
    const Forward<T> a{.p = p,
                       .query = heads_of<const T>(args.query),
                       .key = heads_of<const T>(args.key),
                       .value = heads_of<const T>(args.value),
                       .out = heads_of<T>(args.out),
                       .lse = args.lse.as<float>()};
    switch_variant(p, [&](auto variant) {
      with_head_width<32, 64, 96, 128, 192, 256>(p.D, [&](auto width) {
        using S = Shape<decltype(width)::value>;
        launch("attention_forward", forward_kernel<S, T, decltype(variant)::value>,
               tile_blocks(p, p.cu_q, p.T, S::kTileQ, p.H), S::kThreads, S::template kBytes<T>, ctx,
               a);
      });
    });
  });
}

}  // namespace fusedlm::FUSEDLM_DEVICE
