// Flash attention, forward, of float32 in float32: no tensor cores, each product and sum rounded as
// the CPU rounds it. A block of 256 threads has a tile of queries of one head; a thread has kRows
// neighbouring rows of the tile and kColumns neighbouring keys, and reads both in chunks of four
// along the width. Weights go through shared memory to the second product, where a thread has the
// same rows and a sixteenth of the width. Keys and values take turns in one buffer; several blocks on
// a multiprocessor hide the loads.
// The same kernel serves few queries: rows are then queries of all heads that share a key-value head,
// and each of several blocks takes a part of the keys; attention_partials.h adds those up.

#include "cuda/attention_dropout.h"
#include "cuda/attention_float.h"
#include "cuda/attention_kernels.h"
#include "cuda/attention_partials.h"
#include "cuda/attention_softmax.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

template <int kTileQ, int kTileK, int kD>
struct Shape : FloatShape<kTileQ, kTileK, kD> {
  using Base = FloatShape<kTileQ, kTileK, kD>;
  static constexpr int kBytes =
      sizeof(float) * ((kTileQ + kTileK) * kD + kTileQ * Base::kWeightStride);
};

struct Forward {
  Problem p;
  Heads<const float> query, key, value;
  Heads<float> out;
  float* lse;
  Partials partials;
};

template <class S, Variant kVariant, bool kFewQueries>
__global__ void __launch_bounds__(S::kThreads, least_blocks(kVariant)) forward_kernel(Forward a) {
  using Tile = typename S::Tile;
  using Scores = typename S::Scores;
  const Problem& p = a.p;
  const int thread = threadIdx.x;
  // Row r of the block's tile is query (first + r) / pack of head head0 + (first + r) % pack.
  Sequence s;
  int first, rows, head0, pack = 1, split = 0;
  if constexpr (kFewQueries) {
    const PartialPlace at = a.partials.place(p, blockIdx.x);
    s = sequence_at(p, at.b), pack = p.R, head0 = at.g * p.R, split = at.split;
    first = at.tile * S::kTileQ, rows = min(S::kTileQ, s.T * pack - first);
  } else {
    const Place at = queries_at(p, S::kTileQ, blockIdx.x);
    s = at.s, head0 = at.head;
    first = at.tile * S::kTileQ, rows = min(S::kTileQ, s.T - first);
    if (rows <= 0) return;
  }
  const ScoreRules rules{p, s};
  const auto query_at = [&](int row) {
    return kFewQueries ? rules.query(head0 + (first + row) % pack, (first + row) / pack)
                       : rules.query(head0, first + row);
  };
  const auto query_of = [&](int i) { return query_at(Scores::row(i)); };
  float* query = dynamic_shared<float, S::kBytes>();
  float* keys = query + S::kTileQ * S::kD;  // and values
  float* weights = keys + S::kTileK * S::kD;
  const int g = head0 / p.R;
  const auto key = keys_of<kVariant>(p, a.key, s, g), value = keys_of<kVariant>(p, a.value, s, g);
  if constexpr (kFewQueries) {
    load_tile<Tile, S::kTileQ, S::kThreads>(query, rows, p.D, a.query.packed, thread, [&](int row) {
      const int t = (first + row) / pack, h = head0 + (first + row) % pack;
      return a.query.rows(s.b, s.q0, h).at(t);
    });
  } else {
    load_tile<Tile, S::kTileQ, S::kThreads>(query, a.query.rows(s.b, s.q0, head0), first, s.T, p.D,
                                            a.query.packed, thread);
  }
  const int t0 = first / pack, t1 = (first + rows - 1) / pack;
  Span range = seen_by_any(p.band, s, t0, t1);
  if constexpr (kFewQueries) range = part_of(range, S::kTileK, a.partials.splits, split);

  OnlineSoftmax<Scores::kRows, Scores::kRowLanes> softmax;
  typename S::Wide out;
  out.clear();
  for (int j0 = range.low / S::kTileK * S::kTileK; j0 < range.high; j0 += S::kTileK) {
    __syncthreads();  // all are done with the values before
    load_tile<Tile, S::kTileK, S::kThreads>(keys, key, j0, s.S, p.D, a.key.packed, thread);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    Scores x;
    x.clear();
    S::multiply_by_rows(x, query, keys);
    const bool edge = !all_seen(p.band, s, t0, t1, j0, j0 + S::kTileK - 1);
    const float scale = prepare_scores<kVariant>(rules, x, edge, query_of,
                                                 [&](int j) { return j0 + Scores::column(j); });
    float factor[Scores::kRows];
    softmax.add(x, scale, factor);
    if constexpr (kVariant != Variant::plain) {
      if (p.dropout) {
        KeptOf<Scores> kept;
        S::draw(rules, kept, query_of, j0);
        kept.drop_from(x);
      }
    }
    S::put_weights(x, weights);
#pragma unroll
    for (int i = 0; i < Scores::kRows; ++i) {
#pragma unroll
      for (int d = 0; d < S::Wide::kColumns; ++d) out.at(i, d) *= factor[i];
    }
    __syncthreads();  // weights are there, and all are done with the keys
    load_tile<Tile, S::kTileK, S::kThreads>(keys, value, j0, s.S, p.D, a.value.packed, thread);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    S::multiply_weights(out, weights, keys);
  }
  cp_async_wait<0>();

  softmax.finish();
#pragma unroll
  for (int i = 0; i < Scores::kRows; ++i) {
    const int row = Scores::row(i);
    if (row >= rows) continue;
    const bool leads = thread % Scores::kRowLanes == 0;
    if (kFewQueries && a.partials.splits > 1) {
      const index_t at = a.partials.row(blockIdx.x, S::kTileQ, row);
      if (leads) a.partials.sums[at] = {softmax.maximum[i], softmax.sum[i]};
      S::store_row(out, i, a.partials.out + at * p.D, p.D, p.D % 4 == 0, 1.0f);
    } else {
      const Query q = query_at(row);
      if (leads) {
        a.lse[(static_cast<index_t>(s.b) * p.H + q.head) * p.T + s.q0 + q.t] =
            softmax.log_sum_exp(i);
      }
      S::store_row(
          out, i, a.out.rows(s.b, s.q0, q.head).at(q.t), p.D, a.out.packed,
          softmax.inverse(i) * (kVariant != Variant::plain && p.dropout ? p.keep_scale : 1.0f));
    }
  }
}

Forward arguments_of(const AttentionForward& args, const Problem& p) {
  return {.p = p,
          .query = heads_of<const float>(args.query),
          .key = heads_of<const float>(args.key),
          .value = heads_of<const float>(args.value),
          .out = heads_of<float>(args.out),
          .lse = args.lse.as<float>(),
          .partials = {}};
}

}  // namespace

void attention_forward_float(const AttentionForward& args, const Problem& p, Context& ctx) {
  const Forward a = arguments_of(args, p);
  switch_variant(p, [&](auto variant) {
    with_head_width<32, 64, 128, 256>(p.D, [&](auto width) {
      constexpr int kD = decltype(width)::value;
      // Up to D = 128 a thread has 4 x 4 scores; beyond, the tiles would not fit 99 KiB.
      constexpr int kTile = kD <= 128 ? 64 : 32;
      using S = Shape<kTile, kTile, kD>;
      launch("attention_forward", forward_kernel<S, decltype(variant)::value, false>,
             tile_blocks(p, p.cu_q, p.T, kTile, p.H), S::kThreads, S::kBytes, ctx, a);
    });
  });
}

void attention_decode_float(const AttentionForward& args, const Problem& p, Context& ctx) {
  Forward a = arguments_of(args, p);
  switch_variant(p, [&](auto variant) {
    with_head_width<32, 64, 128, 256>(p.D, [&](auto width) {
      constexpr int kD = decltype(width)::value;
      // As few rows as 16 x 16 threads can have: what a key is read for is then done in the time
      // that reading it takes.
      using S = Shape<16, kD <= 128 ? 64 : 32, kD>;
      a.partials = plan_partials(p, S::kTileQ, S::kTileK, ctx);
      launch("attention_decode", forward_kernel<S, decltype(variant)::value, true>,
             blocks_of(a.partials.blocks), S::kThreads, S::kBytes, ctx, a);
      add_partials(a.partials, p, S::kTileQ, a.out, a.lse, ctx);
    });
  });
}

}  // namespace fusedlm::FUSEDLM_DEVICE
