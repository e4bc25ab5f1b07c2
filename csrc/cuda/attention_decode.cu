// Attention of few queries over many keys (decoding), of 16-bit elements: bound by reading the keys
// and values once. Rows of a tile are 16 queries of all heads that share a key-value head, so none of
// them reads a key for itself alone. Blocks take parts of the keys (attention_partials.h), and within
// a block each warp every kWarps-th tile of them: a warp has a pipeline of two stages and an online
// softmax of its own, and waits for no other before the end, when their sums meet in shared memory.

#include "cuda/attention_dropout.h"
#include "cuda/attention_kernels.h"
#include "cuda/attention_partials.h"
#include "cuda/attention_softmax.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

// Stages of a block together hold 32 KiB to 64 KiB, most of it in flight: two or three blocks keep
// the memory of a multiprocessor busy, and fit the 99 KiB of sm_86, sm_89 and sm_120.
template <int kWidth>
struct Shape {
  static constexpr int kD = kWidth, kTileQ = 16;
  static constexpr int kTileK = kD <= 64 ? 32 : 16;
  static constexpr int kWarps = kD <= 128 ? 4 : 2;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kWarpElements = 4 * kTileK * kD;  // two stages of keys and values
  template <class T>                                     // of shared memory
  static constexpr int kBytes =
      (kTileQ * kD + kWarps * kWarpElements) * static_cast<int>(sizeof(T));
  // The sums of all warps, in place of the stages at the end.
  static_assert(kWarps * kTileQ * (kD + 2) * 4 <= kWarps * kWarpElements * 2);
};

template <class T>
struct Decode {
  Problem p;
  Heads<const T> query, key, value;
  Heads<T> out;
  float* lse;
  Partials partials;
};

// The query's fragments stay in registers where the sums leave room for them.
template <class Tile>
constexpr bool kKeepQuery = Tile::kD <= 128;
template <class Tile>
using QueryRows = std::conditional_t<kKeepQuery<Tile>, KeptRows<Tile, 1>, TileRows<Tile>>;

template <class S, class T, Variant kVariant>
__global__ void __launch_bounds__(S::kThreads, least_blocks(kVariant)) decode_kernel(Decode<T> a) {
  using Tile = SharedTile<T, S::kD>;
  using Scores = WarpSums<1, S::kTileK / 8>;
  using Wide = WarpSums<1, S::kD / 8>;
  constexpr int kTileK = S::kTileK, kStage = kTileK * S::kD;
  const Problem& p = a.p;
  const PartialPlace at = a.partials.place(p, blockIdx.x);
  const Sequence s = sequence_at(p, at.b);
  const ScoreRules rules{p, s};
  // Row r of the tile is query (first + r) / R of head g R + (first + r) % R.
  const int first = at.tile * S::kTileQ, rows = min(S::kTileQ, s.T * p.R - first);
  const auto query_at = [&](int row) {
    return rules.query(at.g * p.R + (first + row) % p.R, (first + row) / p.R);
  };
  T* query = dynamic_shared<T, S::template kBytes<T>>();
  T* stages = query + S::kTileQ * S::kD;
  T* keys = stages + warp_id() * S::kWarpElements;
  T* values = keys + 2 * kStage;
  load_tile<Tile, S::kTileQ, S::kThreads>(
      query, rows, p.D, a.query.packed, threadIdx.x, [&](int row) {
        const int t = (first + row) / p.R, h = at.g * p.R + (first + row) % p.R;
        return a.query.rows(s.b, s.q0, h).at(t);
      });
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  QueryRows<Tile> query_rows;
  if constexpr (kKeepQuery<Tile>) {
    query_rows.load(query, 0);
  } else {
    query_rows = {query, 0};
  }

  const auto key = keys_of<kVariant>(p, a.key, s, at.g),
             value = keys_of<kVariant>(p, a.value, s, at.g);
  const int t0 = first / p.R, t1 = (first + rows - 1) / p.R;
  const Span range = part_of(seen_by_any(p.band, s, t0, t1), kTileK, a.partials.splits, at.split);
  const auto load = [&](int j, int stage) {
    if (j < range.high) {
      load_tile<Tile, kTileK, kWarp>(keys + stage * kStage, key, j, s.S, p.D, a.key.packed,
                                     lane_id());
      load_tile<Tile, kTileK, kWarp>(values + stage * kStage, value, j, s.S, p.D, a.value.packed,
                                     lane_id());
    }
    cp_async_commit();
  };
  Query queries[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) queries[i] = query_at(min(Scores::row(i), rows - 1));
  const auto query_of = [&](int i) { return queries[i]; };
  OnlineSoftmax<2, Scores::kRowLanes> softmax;
  Wide out;
  out.clear();
  constexpr int kStep = S::kWarps * kTileK;
  int j0 = range.low / kTileK * kTileK + warp_id() * kTileK, stage = 0;
  load(j0, 0);
  for (; j0 < range.high; j0 += kStep, stage ^= 1) {
    load(j0 + kStep, stage ^ 1);
    cp_async_wait<1>();
    __syncwarp();
    Scores x;
    multiply_by_rows<Tile>(x, query_rows, keys + stage * kStage);
    const bool edge = !all_seen(p.band, s, t0, t1, j0, j0 + kTileK - 1);
    const float scale = prepare_scores<kVariant>(rules, x, edge, query_of,
                                                 [&](int j) { return j0 + Scores::column(j); });
    float factor[2];
    if (softmax.add(x, scale, factor)) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int d = 0; d < Wide::kColumns; ++d) out.at(i, d) *= factor[i];
      }
    }
    if constexpr (kVariant != Variant::plain) {
      if (p.dropout) {
        KeptOf<Scores> kept;
        draw<Scores>(rules, kept, query_of, j0);
        kept.drop_from(x);
      }
    }
    multiply_by_columns<Tile>(out, x, values + stage * kStage);
    __syncwarp();  // all lanes are done with this stage
  }
  cp_async_wait<0>();
  softmax.finish();

  // The warps' sums, added in their order.
  __syncthreads();
  auto* sums = reinterpret_cast<float*>(stages);  // [warps][rows][D], then maximum and sum
  auto* heads = reinterpret_cast<PartialSum*>(sums + S::kWarps * S::kTileQ * S::kD);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = warp_id() * S::kTileQ + Scores::row(i);
    if (lane_id() % Scores::kRowLanes == 0) heads[row] = {softmax.maximum[i], softmax.sum[i]};
#pragma unroll
    for (int d = 0; d < Wide::kColumns; d += 2) {
      // Eight rows of a column lie in different banks if each is shifted by a pair's share.
      const int column = Wide::column(d) ^ (row % 8 * 4);
      *reinterpret_cast<float2*>(sums + row * S::kD + column) =
          make_float2(out.at(i, d), out.at(i, d + 1));
    }
  }
  __syncthreads();
  for (int n = threadIdx.x; n < rows * S::kD; n += S::kThreads) {
    const int row = n / S::kD, d = n % S::kD;
    if (d >= p.D) continue;
    float maximum = -kInfinity;
#pragma unroll
    for (int w = 0; w < S::kWarps; ++w) {
      maximum = fmaxf(maximum, heads[w * S::kTileQ + row].maximum);
    }
    const float shift = maximum == -kInfinity ? 0.0f : maximum;
    float sum = 0.0f, total = 0.0f;
#pragma unroll
    for (int w = 0; w < S::kWarps; ++w) {
      const PartialSum part = heads[w * S::kTileQ + row];
      const float weight = fast_exp2(part.maximum - shift);
      sum = fmaf(part.sum, weight, sum);
      total = fmaf(sums[(w * S::kTileQ + row) * S::kD + (d ^ (row % 8 * 4))], weight, total);
    }
    if (a.partials.splits > 1) {
      const index_t to = a.partials.row(blockIdx.x, S::kTileQ, row);
      if (d == 0) a.partials.sums[to] = {maximum, sum};
      a.partials.out[to * p.D + d] = total;
      continue;
    }
    const Query q = query_at(row);
    if (d == 0) {
      a.lse[(static_cast<index_t>(s.b) * p.H + q.head) * p.T + q.t] =
          OnlineSoftmax<1, 1>::log_sum_exp_of(maximum, sum);
    }
    a.out.rows(s.b, s.q0, q.head).at(q.t)[d] =
        from_float<T>(sum == 0.0f ? 0.0f : total * (p.keep_scale / sum));
  }
}

}  // namespace

void attention_decode_half(const AttentionForward& args, const Problem& p, Context& ctx) {
  switch_half(args.query.dtype, [&](auto type) {
    using T = decltype(type);
    Decode<T> a{.p = p,
                .query = heads_of<const T>(args.query),
                .key = heads_of<const T>(args.key),
                .value = heads_of<const T>(args.value),
                .out = heads_of<T>(args.out),
                .lse = args.lse.as<float>(),
                .partials = {}};
    switch_variant(p, [&](auto variant) {
      with_head_width<32, 64, 96, 128, 192, 256>(p.D, [&](auto width) {
        using S = Shape<decltype(width)::value>;
        a.partials = plan_partials(p, S::kTileQ, S::kWarps * S::kTileK, ctx);
        launch("attention_decode", decode_kernel<S, T, decltype(variant)::value>,
               blocks_of(a.partials.blocks), S::kThreads, S::template kBytes<T>, ctx, a);
        add_partials(a.partials, p, S::kTileQ, a.out, a.lse, ctx);
      });
    });
  });
}

}  // namespace fusedlm::FUSEDLM_DEVICE
