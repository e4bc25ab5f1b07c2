// Embedding. The forward is a team of threads a row (cuda/rows.h): all packs of the row are loaded,
// then stored. The backward sorts the tokens by row (cuda/sort_tokens.h) and sums each row's run of
// tokens in order, a warp 32 packs of columns of a row; rows without tokens are written as zeros by
// the same kernel, so the gradient is written once. So that a frequent token keeps no warp busy for
// long, the sorted list is cut every kPiece tokens: what a cut leaves of a run is summed into a
// partial row first, by as many warps as there are pieces, and the row adds up its partials in
// order. No atomics on floats: the same bits in every run.

#include "cuda/rows.h"
#include "cuda/sort_tokens.h"
#include "fusedlm/embedding.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

// Of a row, in registers of a thread, so that all its loads are under way at once.
constexpr int kForwardElements = 32;
// Tokens summed by one warp: some 10 us of loads, and partial rows are at most 1/16 of the bytes.
constexpr unsigned kPiece = 64;
// Rows that a warp has under way. More would cost registers, and with them the warps that most
// rows of a vocabulary need: those without a token, which are only written.
constexpr int kAhead = 4;

template <class T, class W>
struct Forward {
  const index_t *tokens, *positions;
  const W *weight, *position_weight;
  T* out;
  index_t N, V, P, out_stride;
  int C;
};

template <class Plan, class T, class W>
__global__ void __launch_bounds__(Plan::kBlock) forward_kernel(Forward<T, W> a) {
  constexpr int V = Plan::V;
  const index_t row = Plan::team();
  if (row >= a.N) return;
  const index_t token = a.tokens[row], position = a.positions ? a.positions[row] : 0;
  // What names no row has no value; reading there could be anything.
  const bool valid =
      token >= 0 && token < a.V && (!a.positions || (position >= 0 && position < a.P));
  const float nothing = __uint_as_float(0x7fc00000u);  // NaN
  const W* from = a.weight + (valid ? token : 0) * a.C;
  const W* add = a.positions ? a.position_weight + (valid ? position : 0) * a.C : nullptr;
  T* to = a.out + row * a.out_stride;
  float v[Plan::kPacks][V];
  Plan::for_packs(a.C, [&](int i, int c) {
    if (valid) {
      load_floats(from + c, v[i]);
    } else {
#pragma unroll
      for (int j = 0; j < V; ++j) v[i][j] = nothing;
    }
    if (valid && add) {
      float p[V];
      load_floats(add + c, p);
#pragma unroll
      for (int j = 0; j < V; ++j) v[i][j] += p[j];
    }
    if constexpr (!Plan::kKept) store_floats(to + c, v[i]);
  });
  if constexpr (Plan::kKept) {
    Plan::for_packs(a.C, [&](int i, int c) { store_floats(to + c, v[i]); });
  }
}

/// [begin[v], end[v]) is the run of row v in the sorted list; both 0 where it has none.
__global__ void __launch_bounds__(256)
    clear_runs_kernel(unsigned* begin, unsigned* end, index_t V) {
  const index_t v = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (v < V) begin[v] = end[v] = 0;
}

__global__ void __launch_bounds__(256)
    find_runs_kernel(const unsigned* keys, unsigned N, unsigned V, unsigned* begin, unsigned* end) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= N) return;
  const unsigned key = keys[i];
  if (key >= V) return;
  if (i == 0 || keys[i - 1] != key) begin[key] = i;
  if (i + 1 == N || keys[i + 1] != key) end[key] = i + 1;
}

template <class T, class W>
struct Backward {
  const T* dout;
  const unsigned *keys, *order, *begin, *end;
  float* partials;  // [pieces, 2, C]: of the run that comes into a piece, and that leaves it
  W* dweight;
  index_t V, dout_stride, dweight_stride;
  unsigned N;
  int C;
};

/// sum[j] += rows(i)[j] for i in [from, to), in order, with kAhead loads under way.
template <int V, class Row>
__device__ __forceinline__ void add_rows(unsigned from, unsigned to, Row&& row, float (&sum)[V]) {
  for (unsigned i = from; i < to; i += kAhead) {
    float x[kAhead][V];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (i + k < to) load_floats(row(i + k), x[k]);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
#pragma unroll
      for (int j = 0; j < V; ++j) {
        if (i + k < to) sum[j] += x[k][j];
      }
    }
  }
}

/// One warp for each piece and side.
template <int V, class T, class W>
__global__ void __launch_bounds__(kWarpsPerBlock* kWarp) partials_kernel(Backward<T, W> a) {
  const unsigned slot = blockIdx.x * kWarpsPerBlock + warp_id();
  const unsigned first = slot / 2 * kPiece;
  const int c = (blockIdx.y * kWarp + lane_id()) * V;
  if (first >= a.N || c >= a.C) return;
  const unsigned last = min(first + kPiece, a.N);
  const bool leaves = slot % 2;
  const unsigned key = a.keys[leaves ? last - 1 : first];
  if (key >= a.V) return;
  const unsigned begin = a.begin[key], end = a.end[key];
  if (leaves ? begin < first || end <= last : begin >= first) return;
  float sum[V] = {};
  add_rows(
      max(first, begin), min(last, end),
      [&](unsigned i) { return a.dout + a.order[i] * a.dout_stride + c; }, sum);
  store_floats(a.partials + static_cast<index_t>(slot) * a.C + c, sum);
}

/// One warp for each row.
template <int V, class T, class W>
__global__ void __launch_bounds__(kWarpsPerBlock* kWarp) rows_kernel(Backward<T, W> a) {
  const index_t row = static_cast<index_t>(blockIdx.x) * kWarpsPerBlock + warp_id();
  const int c = (blockIdx.y * kWarp + lane_id()) * V;
  if (row >= a.V || c >= a.C) return;
  const unsigned begin = a.begin[row], end = a.end[row];
  float sum[V] = {};
  if (begin < end) {
    const unsigned from = begin / kPiece, to = (end - 1) / kPiece;
    if (from == to) {
      add_rows(
          begin, end, [&](unsigned i) { return a.dout + a.order[i] * a.dout_stride + c; }, sum);
    } else {
      add_rows(
          from, to + 1,
          [&](unsigned i) {
            return a.partials + (2 * static_cast<index_t>(i) + (i == from)) * a.C + c;
          },
          sum);
    }
  }
  store_floats(a.dweight + row * a.dweight_stride + c, sum);
}

}  // namespace

void embedding_forward(const EmbeddingForward& args, Context& ctx) {
  const index_t N = args.tokens.shape[0], C = args.weight.shape[1];
  const bool packed = can_pack(args.weight) && can_pack(args.position_weight) && can_pack(args.out);
  switch_floats(args.out.dtype, args.weight.dtype, [&](auto t, auto w) {
    using T = decltype(t);
    using W = decltype(w);
    const Forward<T, W> a{.tokens = args.tokens.as<index_t>(),
                          .positions = args.positions.as<index_t>(),
                          .weight = args.weight.as<W>(),
                          .position_weight = args.position_weight.as<W>(),
                          .out = args.out.as<T>(),
                          .N = N,
                          .V = args.weight.shape[0],
                          .P = args.position_weight.shape[0],
                          .out_stride = args.out.strides[0],
                          .C = static_cast<int>(C)};
    with_row_plan<T, kForwardElements>(packed, C, [&](auto plan) {
      using Plan = decltype(plan);
      launch_teams<Plan>("embedding_forward", forward_kernel<Plan, T, W>, N, ctx, a);
    });
  });
}

void embedding_backward(const EmbeddingBackward& args, Context& ctx) {
  constexpr const char* name = "embedding_backward";
  const index_t N = args.dout.shape[0], V = args.dweight.shape[0], C = args.dweight.shape[1];
  const SortedTokens sorted =
      sort_tokens(name, args.tokens.as<index_t>(), N, V, args.padding_idx, ctx);
  unsigned* begin = device_scratch<unsigned>(ctx, V);
  unsigned* end = device_scratch<unsigned>(ctx, V);
  launch(name, clear_runs_kernel, blocks_of(ceil_of<index_t>(V, 256)), 256, 0, ctx, begin, end, V);
  launch(name, find_runs_kernel, blocks_of(ceil_of<index_t>(N, 256)), 256, 0, ctx, sorted.keys, N,
         V, begin, end);
  const index_t slots = 2 * ceil_of<index_t>(N, kPiece);
  float* partials = device_scratch<float>(ctx, slots * C);
  const bool packed = can_pack(args.dout) && can_pack(args.dweight);
  switch_floats(args.dout.dtype, args.dweight.dtype, [&](auto t, auto w) {
    using T = decltype(t);
    using W = decltype(w);
    const Backward<T, W> a{.dout = args.dout.as<T>(),
                           .keys = sorted.keys,
                           .order = sorted.order,
                           .begin = begin,
                           .end = end,
                           .partials = partials,
                           .dweight = args.dweight.as<W>(),
                           .V = V,
                           .dout_stride = args.dout.strides[0],
                           .dweight_stride = args.dweight.strides[0],
                           .N = static_cast<unsigned>(N),
                           .C = static_cast<int>(C)};
    const auto launch_both = [&](auto vector) {
      constexpr int kVector = decltype(vector)::value;
      const unsigned columns = blocks_of(ceil_of<index_t>(C, kWarp * kVector));
      const auto grid = [&](index_t warps) {
        return dim3(blocks_of(ceil_of<index_t>(warps, kWarpsPerBlock)), columns);
      };
      constexpr int kBlock = kWarpsPerBlock * kWarp;
      launch("embedding_backward: partials", partials_kernel<kVector, T, W>, grid(slots), kBlock, 0,
             ctx, a);
      launch("embedding_backward: rows", rows_kernel<kVector, T, W>, grid(V), kBlock, 0, ctx, a);
    };
    if (packed && C % kPack<T> == 0) {
      launch_both(std::integral_constant<int, kPack<T>>{});
    } else {
      launch_both(std::integral_constant<int, 1>{});
    }
  });
}

}  // namespace fusedlm::FUSEDLM_DEVICE
