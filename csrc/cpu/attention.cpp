// Flash attention, forward (Dao 2023). Keys and values of a (batch, key-value head) are packed once
// into panels for the micro-kernels of the matrix multiply; a task is one tile of kTileQ queries of
// one head, which walks over tiles of kTileK keys: scores = Q K^T, a running maximum m and sum l
// for each row (the online softmax of Milakov & Gimelshein 2018), out = out * exp(m_old - m) + P V.
// Scores, weights and the sums of out stay in L1 and L2. Tiles that causality or the window hide
// are skipped, and the last one is cut to what is visible. A few queries (decoding) read K and V
// where they lie, since packing would cost more than it saves.

#include "fusedlm/attention.h"

#include "cpu/attention_tiles.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

// Up to so many queries the panels would be used once only.
constexpr index_t kDirectRows = 4;
// Packed keys and values kept at a time: a share of the L3, and far below the tensors themselves.
constexpr index_t kPackedBytes = index_t{16} << 20;

constexpr float kInfinity = __builtin_inff();

FUSEDLM_VEC float exp_of(float x) { return reduce_max(exp(Vec(x))); }

struct Sizes {
  index_t H, G, R, D, out_stride;  // R heads share a key-value head; out_stride: D in whole panels
  Packing packing;
  index_t key_lanes, value_tile_lanes, key_tiles, max_T;
};

// What one thread needs for a tile.
struct Scratch {
  uint32_t *query, *weights;
  float *scores, *out, *bias, *keep, *maximum, *sum;
};

Sizes sizes_of(const AttentionForward& a) {
  Sizes z{};
  z.H = a.query.shape[2], z.G = a.key.shape[2], z.R = z.H / z.G, z.D = a.query.shape[3];
  z.out_stride = ceil_div(z.D, kNR) * kNR;
#if defined(FUSEDLM_ISA_AVX512_BF16)
  z.packing.pairs = a.query.dtype == DType::bfloat16;
#else
  z.packing.pairs = false;
#endif
  index_t max_S = 0;
  const index_t count = sequence_count(a.options, a.query.shape[0]);
  for (index_t i = 0; i < count; ++i) {
    const Sequence s = sequence_at(a.options, a.query, a.key, i);
    z.max_T = max_of(z.max_T, s.T);
    max_S = max_of(max_S, s.S);
  }
  z.key_tiles = ceil_div(max_S, kTileK);
  z.key_lanes = z.packing.size<kNR>(z.D, z.key_tiles * kTileK);
  z.value_tile_lanes = z.packing.size<kNR>(kTileK, z.D);
  return z;
}

// scores -> weights in place for one row; returns the factor for what was summed before.
float softmax_row(const AttentionOptions& o, const float* bias, const float* keep, index_t count,
                  float* row, float& maximum, float& sum) {
  const Vec scale(o.scale), cap(o.softcap), inverse_cap(o.softcap > 0 ? 1.0f / o.softcap : 0.0f);
  Vec top(maximum);
  for (index_t j = 0; j < count; j += Vec::size) {
    Vec s = Vec::load(row + j) * scale;
    if (o.softcap > 0) s = cap * tanh(s * inverse_cap);
    if (bias) s = s + Vec::load(bias + j);
    s.store(row + j);
    top = max(top, s);
  }
  const float before = maximum;
  maximum = reduce_max(top);
  const Vec shift(maximum == -kInfinity ? 0.0f : maximum);
  Vec total;
  for (index_t j = 0; j < count; j += Vec::size) {
    Vec p = exp(Vec::load(row + j) - shift);
    total = total + p;
    if (keep) p = p * Vec::load(keep + j);
    p.store(row + j);
  }
  const float factor = before == maximum ? 1.0f : exp_of(before - maximum);
  sum = sum * factor + reduce_sum(total);
  return factor;
}

template <class T>
void write_row(const float* sums, float maximum, float sum, index_t D, T* out, float* lse) {
  const Vec inverse(sum > 0 || sum != sum ? 1.0f / sum : 0.0f);
  const auto body = [&](index_t d, auto... n) {
    (Vec::load(sums + d) * inverse).store(out + d, n...);
  };
  for_each_vec(D, body, body);
  *lse = sum > 0 || sum != sum ? maximum + __builtin_logf(sum) : kInfinity;
}

void write_out(const AttentionForward& a, const Sequence& s, index_t h, index_t t,
               const float* sums, float maximum, float sum) {
  const index_t D = a.query.shape[3];
  const index_t at = s.b * a.out.strides[0] + (s.q0 + t) * a.out.strides[1] + h * a.out.strides[2];
  float* lse = a.lse.as<float>() + (s.b * a.query.shape[2] + h) * a.query.shape[1] + s.q0 + t;
  switch_float(a.out.dtype, [&](auto type) {
    write_row(sums, maximum, sum, D, a.out.as<decltype(type)>() + at, lse);
  });
}

void query_tile(const AttentionForward& a, const Sizes& z, const Sequence& s, index_t h, index_t t0,
                const uint32_t* keys, const uint32_t* values, const Scratch& w) {
  const AttentionOptions& o = a.options;
  const Packing& pack = z.packing;
  const index_t rows = min_of(kTileQ, s.T - t0);
  pack.pack<kMR>(head_rows(a.query, s.b, s.q0 + t0, h).transposed(), 0, z.D, 0, rows, w.query);
  __builtin_memset(w.out, 0, static_cast<size_t>(rows * z.out_stride) * sizeof(float));
  for (index_t r = 0; r < rows; ++r) w.maximum[r] = -kInfinity, w.sum[r] = 0.0f;
  const index_t low = visible(o, s, t0).low, high = visible(o, s, t0 + rows - 1).high;
  const index_t query_step = kMR * pack.lanes(z.D), key_step = kNR * pack.lanes(z.D);
  for (index_t j0 = low / kTileK * kTileK; j0 < high; j0 += kTileK) {
    const index_t used = min_of(kTileK, high - j0), columns = ceil_div(used, kNR) * kNR;
    const index_t in_tile =
        min_of(kTileK, s.S - j0);  // how deep the values of this tile were packed
    multiply_tile(pack.pairs, w.query, query_step, keys + j0 / kNR * key_step, key_step,
                  pack.lanes(z.D), rows, columns, false, w.scores, kTileK);
    for (index_t r = 0; r < rows; ++r) {
      float* row = w.scores + r * kTileK;
      const bool biased = score_bias(o, s, h, t0 + r, j0, columns, w.bias);
      if (o.dropout_p > 0) dropout_keep(o, s, h, z.H, t0 + r, j0, columns, w.keep);
      const float factor =
          softmax_row(o, biased ? w.bias : nullptr, o.dropout_p > 0 ? w.keep : nullptr, columns,
                      row, w.maximum[r], w.sum[r]);
      if (factor == 1.0f) continue;
      float* sums = w.out + r * z.out_stride;
      for (index_t d = 0; d < z.out_stride; d += Vec::size)
        (Vec::load(sums + d) * Vec(factor)).store(sums + d);
    }
    const Matrix weights{w.scores, DType::float32, kTileK, 1};
    pack.pack<kMR>(weights.transposed(), 0, used, 0, rows, w.weights);
    multiply_tile(pack.pairs, w.weights, kMR * pack.lanes(used),
                  values + j0 / kTileK * z.value_tile_lanes, kNR * pack.lanes(in_tile),
                  pack.lanes(used), rows, z.out_stride, true, w.out, z.out_stride);
  }
  for (index_t r = 0; r < rows; ++r) {
    write_out(a, s, h, t0 + r, w.out + r * z.out_stride, w.maximum[r], w.sum[r]);
  }
}

Scratch take_scratch(const Sizes& z, Context& ctx) {
  Workspace& ws = ctx.workspace();
  return {ws.take<uint32_t>(z.packing.size<kMR>(z.D, kTileQ)),
          ws.take<uint32_t>(z.packing.size<kMR>(kTileK, kTileQ)),
          ws.take<float>(kTileQ * kTileK),
          ws.take<float>(kTileQ * z.out_stride),
          ws.take<float>(kTileK),
          ws.take<float>(kTileK),
          ws.take<float>(kTileQ),
          ws.take<float>(kTileQ)};
}

void tiled(const AttentionForward& a, const Sizes& z, Context& ctx) {
  Workspace& ws = ctx.workspace();
  const index_t units = sequence_count(a.options, a.query.shape[0]) * z.G;
  const index_t value_lanes = z.key_tiles * z.value_tile_lanes,
                unit_lanes = z.key_lanes + value_lanes;
  const index_t threads = num_threads();
  const index_t some = min_of(units, max_of(threads, kPackedBytes / max_of(1, unit_lanes * 4)));
  auto* packed = ws.take<uint32_t>(some * unit_lanes);
  auto* scratch = ws.take<Scratch>(threads);
  for (index_t i = 0; i < threads; ++i) scratch[i] = take_scratch(z, ctx);
  const index_t query_tiles = ceil_div(z.max_T, kTileQ);
  for (index_t first = 0; first < units; first += some) {
    const index_t count = min_of(some, units - first);
    parallel_for(count * z.key_tiles, [&](index_t task, int) {
      const index_t unit = first + task / z.key_tiles, j0 = task % z.key_tiles * kTileK;
      const Sequence s = sequence_at(a.options, a.query, a.key, unit / z.G);
      if (j0 >= s.S) return;
      uint32_t* to = packed + (unit - first) * unit_lanes;
      const index_t in_tile = min_of(kTileK, s.S - j0), g = unit % z.G;
      z.packing.pack<kNR>(head_rows(a.key, s.b, s.k0 + j0, g).transposed(), 0, z.D, 0, in_tile,
                          to + j0 * z.packing.lanes(z.D));
      z.packing.pack<kNR>(head_rows(a.value, s.b, s.k0 + j0, g), 0, in_tile, 0, z.D,
                          to + z.key_lanes + j0 / kTileK * z.value_tile_lanes);
    });
    // The last queries see the most keys under causality, so they go first.
    parallel_for(query_tiles * count * z.R, [&](index_t task, int thread) {
      const index_t head = task % (count * z.R),
                    t0 = (query_tiles - 1 - task / (count * z.R)) * kTileQ;
      const index_t unit = first + head / z.R;
      const Sequence s = sequence_at(a.options, a.query, a.key, unit / z.G);
      if (t0 >= s.T) return;
      const uint32_t* keys = packed + (unit - first) * unit_lanes;
      query_tile(a, z, s, unit % z.G * z.R + head % z.R, t0, keys, keys + z.key_lanes,
                 scratch[thread]);
    });
  }
}

// All queries of one head that share one pass over its keys and values.
template <class T>
void direct_head(const AttentionForward& a, const Sizes& z, const Sequence& s, index_t h,
                 float* scores, const Scratch& w) {
  const AttentionOptions& o = a.options;
  const Matrix query = head_rows(a.query, s.b, s.q0, h), key = head_rows(a.key, s.b, s.k0, h / z.R),
               value = head_rows(a.value, s.b, s.k0, h / z.R);
  const index_t stride = z.key_tiles * kTileK;
  const index_t low = s.T ? visible(o, s, 0).low / kTileK * kTileK : 0,
                high = s.T ? visible(o, s, s.T - 1).high : 0;
  for (index_t j = low; j < high; ++j) {
    const T* k = static_cast<const T*>(key.data) + j * key.row_stride;
    for (index_t t = 0; t < s.T; ++t) {
      const T* q = static_cast<const T*>(query.data) + t * query.row_stride;
      Vec dot;
      const auto add = [&](index_t d, auto... n) {
        dot = fma(Vec::load(q + d, n...), Vec::load(k + d, n...), dot);
      };
      for_each_vec(z.D, add, add);
      scores[t * stride + j] = reduce_sum(dot);
    }
  }
  __builtin_memset(w.out, 0, static_cast<size_t>(s.T * z.out_stride) * sizeof(float));
  for (index_t t = 0; t < s.T; ++t) {
    float maximum = -kInfinity, sum = 0.0f, *sums = w.out + t * z.out_stride;
    for (index_t j0 = low; j0 < high; j0 += kTileK) {
      const index_t used = min_of(kTileK, high - j0), columns = ceil_div(used, kNR) * kNR;
      float* row = scores + t * stride + j0;
      for (index_t j = used; j < columns; ++j) row[j] = 0.0f;
      const bool biased = score_bias(o, s, h, t, j0, columns, w.bias);
      if (o.dropout_p > 0) dropout_keep(o, s, h, z.H, t, j0, columns, w.keep);
      const float factor =
          softmax_row(o, biased ? w.bias : nullptr, o.dropout_p > 0 ? w.keep : nullptr, columns,
                      row, maximum, sum);
      if (factor != 1.0f) {
        for (index_t d = 0; d < z.out_stride; d += Vec::size)
          (Vec::load(sums + d) * Vec(factor)).store(sums + d);
      }
      for (index_t j = 0; j < used; ++j) {
        const T* v = static_cast<const T*>(value.data) + (j0 + j) * value.row_stride;
        const auto add = [&](index_t d, auto... n) {
          fma(Vec(row[j]), Vec::load(v + d, n...), Vec::load(sums + d)).store(sums + d);
        };
        for_each_vec(z.D, add, add);
      }
    }
    write_out(a, s, h, t, sums, maximum, sum);
  }
}

void direct(const AttentionForward& a, const Sizes& z, Context& ctx) {
  Workspace& ws = ctx.workspace();
  const index_t threads = num_threads(), row = kDirectRows * z.key_tiles * kTileK;
  float* scores = ws.take<float>(threads * row);
  auto* scratch = ws.take<Scratch>(threads);
  for (index_t i = 0; i < threads; ++i) scratch[i] = take_scratch(z, ctx);
  const index_t count = sequence_count(a.options, a.query.shape[0]);
  parallel_for(count * z.H, [&](index_t task, int thread) {
    const Sequence s = sequence_at(a.options, a.query, a.key, task / z.H);
    switch_float(a.query.dtype, [&](auto type) {
      direct_head<decltype(type)>(a, z, s, task % z.H, scores + thread * row, scratch[thread]);
    });
  });
}

}  // namespace

void attention_forward(const AttentionForward& a, Context& ctx) {
  const Sizes z = sizes_of(a);
  if (z.max_T <= kDirectRows) return direct(a, z, ctx);
  tiled(a, z, ctx);
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
