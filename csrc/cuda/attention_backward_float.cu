// Flash attention, backward, of float32 in float32; products as in attention_float.h. One kernel has
// a tile of queries and makes dquery, one a tile of keys and makes dkey and dvalue; both recompute
//   P = exp(S - lse)    dS = P * (dO V^T - delta)
// and hand them over through shared memory: dQ += dS K, dV += P^T dO, dK += dS^T Q. The keys' kernel
// walks over the queries of all heads that share its key-value head, in order.

#include "cuda/attention_dropout.h"
#include "cuda/attention_float.h"
#include "cuda/attention_kernels.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

// Four tiles of rows and the weights, within 99 KiB: a thread has 4 x 4 scores up to D = 64, 2 x 2 up
// to D = 128, and one beyond.
constexpr int tile_side(int width) { return width <= 64 ? 64 : width <= 128 ? 32 : 16; }

template <int kWidth>
struct Shape : FloatShape<tile_side(kWidth), tile_side(kWidth), kWidth> {
  using Base = FloatShape<tile_side(kWidth), tile_side(kWidth), kWidth>;
  static constexpr int kRowElements = Base::kTileQ * kWidth;  // of each of the four tiles
  static constexpr int kWeightElements = Base::kTileQ * Base::kWeightStride;
  /// Shared memory with so many tiles of weights.
  static constexpr int bytes(int weights) {
    return static_cast<int>(sizeof(float)) * (4 * kRowElements + weights * kWeightElements);
  }
};

struct Backward {
  Problem p;
  Heads<const float> dout, query, key, value;
  Heads<float> dquery, dkey, dvalue;
  const RowStatistics* statistics;
};

// Tiles of queries, dout, keys and values in shared memory -> weights and slopes.
template <class S, bool kExtras>
__device__ __forceinline__ void differentiate_tile(const Backward& a, const ScoreRules& rules,
                                                   const float* query, const float* dout,
                                                   const float* keys, const float* values, int h,
                                                   int t0, int j0, typename S::Scores& weights,
                                                   typename S::Scores& slopes) {
  using Scores = typename S::Scores;
  const Sequence& s = rules.s;
  weights.clear();
  S::multiply_by_rows(weights, query, keys);
  slopes.clear();
  S::multiply_by_rows(slopes, dout, values);
  const auto query_of = [&](int i) { return rules.query(h, t0 + Scores::row(i)); };
  KeptOf<Scores> kept;
  if (kExtras && rules.p.dropout) S::draw(rules, kept, query_of, j0);
  const bool edge =
      !all_seen(rules.p.band, s, t0, min(t0 + S::kTileQ, s.T) - 1, j0, j0 + S::kTileK - 1);
  const auto row_of = [&](int i) {
    const int t = t0 + Scores::row(i);
    return t < s.T
               ? a.statistics[(static_cast<index_t>(s.b) * rules.p.H + h) * rules.p.T + s.q0 + t]
               : RowStatistics{kInfinity, 0.0f};  // a query that is none has weights of 0
  };
  differentiate<kExtras>(rules, weights, slopes, j0, edge, row_of, query_of,
                         [&](int i, int j) { return kept.at(i, j); });
}

template <class S, bool kExtras>
__global__ void __launch_bounds__(S::kThreads, 1) queries_kernel(Backward a) {
  using Tile = typename S::Tile;
  const Problem& p = a.p;
  const int thread = threadIdx.x;
  const Place at = queries_at(p, S::kTileQ, blockIdx.x);
  const Sequence& s = at.s;
  const int t0 = at.tile * S::kTileQ, h = at.head, g = h / p.R;
  if (t0 >= s.T) return;
  float* query = dynamic_shared<float, S::bytes(1)>();
  float *dout = query + S::kRowElements, *keys = dout + S::kRowElements,
        *values = keys + S::kRowElements, *shared_slopes = values + S::kRowElements;
  load_tile<Tile, S::kTileQ, S::kThreads>(query, a.query.rows(s.b, s.q0, h), t0, s.T, p.D,
                                          a.query.packed, thread);
  load_tile<Tile, S::kTileQ, S::kThreads>(dout, a.dout.rows(s.b, s.q0, h), t0, s.T, p.D,
                                          a.dout.packed, thread);
  const Span range = seen_by_any(p.band, s, t0, min(t0 + S::kTileQ, s.T) - 1);
  const ScoreRules rules{p, s};
  typename S::Wide dquery;
  dquery.clear();
  for (int j0 = range.low / S::kTileK * S::kTileK; j0 < range.high; j0 += S::kTileK) {
    __syncthreads();  // all are done with the keys before
    load_tile<Tile, S::kTileK, S::kThreads>(keys, a.key.rows(s.b, s.k0, g), j0, s.S, p.D,
                                            a.key.packed, thread);
    load_tile<Tile, S::kTileK, S::kThreads>(values, a.value.rows(s.b, s.k0, g), j0, s.S, p.D,
                                            a.value.packed, thread);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    typename S::Scores weights, slopes;
    differentiate_tile<S, kExtras>(a, rules, query, dout, keys, values, h, t0, j0, weights, slopes);
    S::put_weights(slopes, shared_slopes);
    __syncthreads();
    S::multiply_weights(dquery, shared_slopes, keys);
  }
  cp_async_wait<0>();
#pragma unroll
  for (int i = 0; i < S::Wide::kRows; ++i) {
    const int t = t0 + S::Wide::row(i);
    if (t < s.T) {
      S::store_row(dquery, i, a.dquery.rows(s.b, s.q0, h).at(t), p.D, a.dquery.packed,
                   p.slope_scale);
    }
  }
}

template <class S, bool kExtras>
__global__ void __launch_bounds__(S::kThreads, 1) keys_kernel(Backward a) {
  using Tile = typename S::Tile;
  const Problem& p = a.p;
  const int thread = threadIdx.x;
  const Place at = place_at(p, p.cu_k, p.S, S::kTileK, p.G, blockIdx.x);
  const Sequence& s = at.s;
  const int j0 = at.tile * S::kTileK, g = at.head;
  if (j0 >= s.S) return;
  float* query = dynamic_shared<float, S::bytes(2)>();
  float *dout = query + S::kRowElements, *keys = dout + S::kRowElements,
        *values = keys + S::kRowElements, *shared_weights = values + S::kRowElements,
        *shared_slopes = shared_weights + S::kWeightElements;
  load_tile<Tile, S::kTileK, S::kThreads>(keys, a.key.rows(s.b, s.k0, g), j0, s.S, p.D,
                                          a.key.packed, thread);
  load_tile<Tile, S::kTileK, S::kThreads>(values, a.value.rows(s.b, s.k0, g), j0, s.S, p.D,
                                          a.value.packed, thread);
  const Span range = seeing_any(p.band, s, j0, min(j0 + S::kTileK, s.S) - 1);
  const ScoreRules rules{p, s};
  typename S::WideKeys dkey, dvalue;
  dkey.clear();
  dvalue.clear();
  for (int h = g * p.R; h < (g + 1) * p.R; ++h) {
    for (int t0 = range.low / S::kTileQ * S::kTileQ; t0 < range.high; t0 += S::kTileQ) {
      __syncthreads();  // all are done with the queries before
      load_tile<Tile, S::kTileQ, S::kThreads>(query, a.query.rows(s.b, s.q0, h), t0, s.T, p.D,
                                              a.query.packed, thread);
      load_tile<Tile, S::kTileQ, S::kThreads>(dout, a.dout.rows(s.b, s.q0, h), t0, s.T, p.D,
                                              a.dout.packed, thread);
      cp_async_commit();
      cp_async_wait<0>();
      __syncthreads();
      typename S::Scores weights, slopes;
      differentiate_tile<S, kExtras>(a, rules, query, dout, keys, values, h, t0, j0, weights,
                                     slopes);
      S::put_weights(weights, shared_weights);
      S::put_weights(slopes, shared_slopes);
      __syncthreads();
      S::multiply_weights_transposed(dvalue, shared_weights, dout);
      S::multiply_weights_transposed(dkey, shared_slopes, query);
    }
  }
  cp_async_wait<0>();
#pragma unroll
  for (int i = 0; i < S::WideKeys::kRows; ++i) {
    const int j = j0 + S::WideKeys::row(i);
    if (j >= s.S) continue;
    S::store_row(dvalue, i, a.dvalue.rows(s.b, s.k0, g).at(j), p.D, a.dvalue.packed,
                 kExtras && p.dropout ? p.keep_scale : 1.0f);
    S::store_row(dkey, i, a.dkey.rows(s.b, s.k0, g).at(j), p.D, a.dkey.packed, p.slope_scale);
  }
}

}  // namespace

void attention_backward_float(const AttentionBackward& args, const Problem& p,
                              const RowStatistics* statistics, Context& ctx) {
  const Backward a{.p = p,
                   .dout = heads_of<const float>(args.dout),
                   .query = heads_of<const float>(args.query),
                   .key = heads_of<const float>(args.key),
                   .value = heads_of<const float>(args.value),
                   .dquery = heads_of<float>(args.dquery),
                   .dkey = heads_of<float>(args.dkey),
                   .dvalue = heads_of<float>(args.dvalue),
                   .statistics = statistics};
  switch_extras(p, [&](auto extras) {
    with_head_width<32, 64, 128, 256>(p.D, [&](auto width) {
      using S = Shape<decltype(width)::value>;
      constexpr bool kExtras = decltype(extras)::value;
      launch("attention_backward: dquery", queries_kernel<S, kExtras>,
             tile_blocks(p, p.cu_q, p.T, S::kTileQ, p.H), S::kThreads, S::bytes(1), ctx, a);
      launch("attention_backward: dkey, dvalue", keys_kernel<S, kExtras>,
             tile_blocks(p, p.cu_k, p.S, S::kTileK, p.G), S::kThreads, S::bytes(2), ctx, a);
    });
  });
}

}  // namespace fusedlm::FUSEDLM_DEVICE
