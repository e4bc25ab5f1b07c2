// Attention on the GPU, backward (Dao 2023): from the public call to the kernels. First one pass over
// dout and out leaves delta = sum(dout * out) of each query beside its log-sum-exp. Then two kernels
// recompute the weights, one for each tile of queries (dquery) and one for each tile of keys (dkey,
// dvalue): 7 products of tiles instead of 5, for sums that stay in registers, no atomics, and
// gradients that are the same bits in every run.

#include "cuda/attention_kernels.h"
#include "cuda/attention_softmax.h"

namespace fusedlm::FUSEDLM_DEVICE {
namespace {

// Threads of a row: 8 packs of 16 bytes are a row of D = 64 at once.
constexpr int kRowThreads = 8, kBlock = 128;

template <class T>
struct Statistics {
  Problem p;
  Heads<const T> dout, out;
  const float* lse;
  RowStatistics* statistics;
  index_t rows;
};

// Whether packed or not, a thread has the same elements: a view gives the same bits as its copy.
template <class T, bool kPacked>
__global__ void __launch_bounds__(kBlock) statistics_kernel(Statistics<T> a) {
  const Problem& p = a.p;
  // Rows in the order of memory; a last block's threads behind the end follow the last row.
  const index_t row =
      static_cast<index_t>(blockIdx.x) * (kBlock / kRowThreads) + threadIdx.x / kRowThreads;
  const index_t n = row < a.rows ? row : a.rows - 1;
  const int h = static_cast<int>(n % p.H), t = static_cast<int>(n / p.H % p.T),
            b = static_cast<int>(n / p.H / p.T);
  const T *dout = a.dout.rows(b, 0, h).at(t), *out = a.out.rows(b, 0, h).at(t);
  constexpr int V = kPack<T>;
  float dot[1] = {0.0f};
  for (int d = threadIdx.x % kRowThreads * V; d < p.D; d += kRowThreads * V) {
    float x[V], y[V];
    if constexpr (kPacked) {
      load_floats(dout + d, x);
      load_floats(out + d, y);
    } else {
#pragma unroll
      for (int e = 0; e < V; ++e) {
        const bool there = d + e < p.D;
        x[e] = there ? to_float(dout[d + e]) : 0.0f;
        y[e] = there ? to_float(out[d + e]) : 0.0f;
      }
    }
#pragma unroll
    for (int e = 0; e < V; ++e) dot[0] = fmaf(x[e], y[e], dot[0]);
  }
  sum_over_lanes<kRowThreads>(dot);
  if (row < a.rows && threadIdx.x % kRowThreads == 0) {
    const index_t at = (static_cast<index_t>(b) * p.H + h) * p.T + t;
    a.statistics[at] = {a.lse[at] * kLog2E, dot[0]};
  }
}

template <class T>
const RowStatistics* row_statistics(const AttentionBackward& args, const Problem& p, Context& ctx) {
  const index_t rows = args.query.shape[0] * p.H * p.T;
  Statistics<T> a{.p = p,
                  .dout = heads_of<const T>(args.dout),
                  .out = heads_of<const T>(args.out),
                  .lse = args.lse.as<float>(),
                  .statistics = device_scratch<RowStatistics>(ctx, rows),
                  .rows = rows};
  const bool packed = a.dout.packed && a.out.packed && p.D % kPack<T> == 0;
  launch("attention_backward: rows",
         packed ? statistics_kernel<T, true> : statistics_kernel<T, false>,
         blocks_of(ceil_of<index_t>(rows, kBlock / kRowThreads)), kBlock, 0, ctx, a);
  return a.statistics;
}

}  // namespace

void attention_backward(const AttentionBackward& args, Context& ctx) {
  const Problem p = problem_of(args.options, args.query, args.key);
  if (args.query.dtype == DType::float32) {
    attention_backward_float(args, p, row_statistics<float>(args, p, ctx), ctx);
    return;
  }
  const RowStatistics* statistics = nullptr;
  switch_half(args.query.dtype,
              [&](auto type) { statistics = row_statistics<decltype(type)>(args, p, ctx); });
  attention_dquery_half(args, p, statistics, ctx);
  attention_dkeys_half(args, p, statistics, ctx);
}

}  // namespace fusedlm::FUSEDLM_DEVICE
