// Flash attention, backward (Dao 2023). A task is one head and one chunk of keys: for each tile of
// kTileK keys it walks over the tiles of queries that see it, recomputes P = exp(scores - lse), and
// adds
//   dV += P^T dO    dP = dO V^T    dS = P * (dP - delta) * scale    dK += dS^T Q    dQ += dS K
// with delta = sum(dO * O) for each query. All operands are packed once beforehand. dK and dV of
// each head and dQ of each chunk are float32 sums of their own, added in a fixed order at the end.
// The number of chunks follows from the shapes alone, so results do not depend on the number of
// threads.

#include "cpu/attention_tiles.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

// Enough tasks to feed a few cores where batch and heads alone do not.
constexpr index_t kTasks = 8;
// Packed operands and partial sums kept at a time.
constexpr index_t kUnitBytes = index_t{32} << 20;

struct Sizes {
  index_t H, G, R, D, stride, T, S;  // T, S: the longest; stride: D in whole panels
  index_t query_tiles, key_tiles, chunks, tiles_per_chunk;
  Packing packing;
  // In lanes: operands of one key tile, and of one query tile.
  index_t key_t, key_n, value_t, query_t, query_n;
};

// Packed operands and sums of one (sequence, key-value head).
struct Unit {
  uint32_t *key_t, *value_t, *key_n;              // for each key tile
  uint32_t *query_t, *dout_t, *query_n, *dout_n;  // for each head and query tile
  float *delta, *dquery, *dkey, *dvalue;  // [R][T], [R][chunks][T][stride], [R][S][stride] twice
};

struct Scratch {
  float *weights, *slopes, *bias, *keep;
  uint32_t *by_key, *by_query;
};

Sizes sizes_of(const AttentionBackward& a) {
  Sizes z{};
  z.H = a.query.shape[2], z.G = a.key.shape[2], z.R = z.H / z.G, z.D = a.query.shape[3];
  z.stride = ceil_div(z.D, kNR) * kNR;
#if defined(FUSEDLM_ISA_AVX512_BF16)
  z.packing.pairs = a.query.dtype == DType::bfloat16;
#else
  z.packing.pairs = false;
#endif
  const index_t count = sequence_count(a.options, a.query.shape[0]);
  for (index_t i = 0; i < count; ++i) {
    const Sequence s = sequence_at(a.options, a.query, a.key, i);
    z.T = max_of(z.T, s.T);
    z.S = max_of(z.S, s.S);
  }
  z.query_tiles = ceil_div(z.T, kTileQ);
  z.key_tiles = ceil_div(z.S, kTileK);
  const index_t wanted = ceil_div(kTasks, max_of(1, count * z.H));
  z.tiles_per_chunk = max_of(1, ceil_div(z.key_tiles, wanted));
  z.chunks = max_of(1, ceil_div(z.key_tiles, z.tiles_per_chunk));
  z.key_t = z.value_t = z.packing.size<kNR>(z.D, kTileK);
  z.key_n = z.packing.size<kNR>(kTileK, z.D);
  z.query_t = z.packing.size<kMR>(z.D, kTileQ);
  z.query_n = z.packing.size<kNR>(kTileQ, z.D);
  return z;
}

// Everything of a unit in one stretch; null base counts only.
index_t lay_out(const Sizes& z, uint32_t* base, Unit& u) {
  index_t used = 0;
  const auto take = [&](index_t count) {
    uint32_t* at = base ? base + used : nullptr;
    used += ceil_div(count, 16) * 16;
    return at;
  };
  const index_t queries = z.R * z.query_tiles;
  u.key_t = take(z.key_tiles * z.key_t);
  u.value_t = take(z.key_tiles * z.value_t);
  u.key_n = take(z.key_tiles * z.key_n);
  u.query_t = take(queries * z.query_t);
  u.dout_t = take(queries * z.query_t);
  u.query_n = take(queries * z.query_n);
  u.dout_n = take(queries * z.query_n);
  u.delta = reinterpret_cast<float*>(take(z.R * z.T));
  u.dquery = reinterpret_cast<float*>(take(z.R * z.chunks * z.T * z.stride));
  u.dkey = reinterpret_cast<float*>(take(z.R * z.S * z.stride));
  u.dvalue = reinterpret_cast<float*>(take(z.R * z.S * z.stride));
  return used;
}

void pack_keys(const AttentionBackward& a, const Sizes& z, const Sequence& s, index_t g,
               index_t tile, const Unit& u) {
  const index_t j0 = tile * kTileK, count = min_of(kTileK, s.S - j0);
  const Matrix key = head_rows(a.key, s.b, s.k0 + j0, g),
               value = head_rows(a.value, s.b, s.k0 + j0, g);
  z.packing.pack<kNR>(key.transposed(), 0, z.D, 0, count, u.key_t + tile * z.key_t);
  z.packing.pack<kNR>(value.transposed(), 0, z.D, 0, count, u.value_t + tile * z.value_t);
  z.packing.pack<kNR>(key, 0, count, 0, z.D, u.key_n + tile * z.key_n);
}

void pack_queries(const AttentionBackward& a, const Sizes& z, const Sequence& s, index_t h,
                  index_t tile, const Unit& u) {
  const index_t t0 = tile * kTileQ, rows = min_of(kTileQ, s.T - t0), r = h % z.R;
  const index_t slot = r * z.query_tiles + tile;
  const Matrix query = head_rows(a.query, s.b, s.q0 + t0, h),
               dout = head_rows(a.dout, s.b, s.q0 + t0, h),
               out = head_rows(a.out, s.b, s.q0 + t0, h);
  z.packing.pack<kMR>(query.transposed(), 0, z.D, 0, rows, u.query_t + slot * z.query_t);
  z.packing.pack<kMR>(dout.transposed(), 0, z.D, 0, rows, u.dout_t + slot * z.query_t);
  z.packing.pack<kNR>(query, 0, rows, 0, z.D, u.query_n + slot * z.query_n);
  z.packing.pack<kNR>(dout, 0, rows, 0, z.D, u.dout_n + slot * z.query_n);
  switch_float(a.query.dtype, [&](auto type) {
    using T = decltype(type);
    for (index_t i = 0; i < rows; ++i) {
      const T *d = static_cast<const T*>(dout.data) + i * dout.row_stride,
              *o = static_cast<const T*>(out.data) + i * out.row_stride;
      Vec dot;
      const auto add = [&](index_t c, auto... n) {
        dot = fma(Vec::load(d + c, n...), Vec::load(o + c, n...), dot);
      };
      for_each_vec(z.D, add, add);
      u.delta[r * z.T + t0 + i] = reduce_sum(dot);
    }
  });
}

// scores and dP of one row become P (with dropout) and dS.
void differentiate_row(const AttentionOptions& o, const float* bias, const float* keep, float lse,
                       float delta, index_t columns, float* weights, float* slopes) {
  const Vec scale(o.scale), cap(o.softcap), inverse_cap(o.softcap > 0 ? 1.0f / o.softcap : 0.0f);
  const Vec shift(lse), mean(delta);
  for (index_t j = 0; j < columns; j += Vec::size) {
    Vec s = Vec::load(weights + j) * scale, slope = scale;
    if (o.softcap > 0) {
      const Vec u = tanh(s * inverse_cap);
      s = cap * u;
      slope = slope * (Vec(1.0f) - u * u);
    }
    if (bias) s = s + Vec::load(bias + j);
    Vec p = exp(s - shift), dp = Vec::load(slopes + j);
    if (keep) dp = dp * Vec::load(keep + j);
    ((dp - mean) * p * slope).store(slopes + j);
    if (keep) p = p * Vec::load(keep + j);
    p.store(weights + j);
  }
}

void key_tile(const AttentionBackward& a, const Sizes& z, const Sequence& s, index_t h,
              index_t chunk, index_t tile, const Unit& u, const Scratch& w) {
  const AttentionOptions& o = a.options;
  const Packing& pack = z.packing;
  const bool pairs = pack.pairs;
  const index_t r = h % z.R, j0 = tile * kTileK, count = min_of(kTileK, s.S - j0);
  const index_t columns = ceil_div(count, kNR) * kNR, depth = pack.lanes(z.D);
  float* dkey = u.dkey + (r * z.S + j0) * z.stride;
  float* dvalue = u.dvalue + (r * z.S + j0) * z.stride;
  __builtin_memset(dkey, 0, static_cast<size_t>(count * z.stride) * sizeof(float));
  __builtin_memset(dvalue, 0, static_cast<size_t>(count * z.stride) * sizeof(float));
  const float* lse = a.lse.as<float>() + (s.b * z.H + h) * a.query.shape[1] + s.q0;
  for (index_t t0 = 0; t0 < s.T; t0 += kTileQ) {
    const index_t rows = min_of(kTileQ, s.T - t0), slot = r * z.query_tiles + t0 / kTileQ;
    if (visible(o, s, t0).low >= j0 + count || visible(o, s, t0 + rows - 1).high <= j0) continue;
    multiply_tile(pairs, u.query_t + slot * z.query_t, kMR * depth, u.key_t + tile * z.key_t,
                  kNR * depth, depth, rows, columns, false, w.weights, kTileK);
    multiply_tile(pairs, u.dout_t + slot * z.query_t, kMR * depth, u.value_t + tile * z.value_t,
                  kNR * depth, depth, rows, columns, false, w.slopes, kTileK);
    for (index_t i = 0; i < rows; ++i) {
      const bool biased = score_bias(o, s, h, t0 + i, j0, columns, w.bias);
      if (o.dropout_p > 0) dropout_keep(o, s, h, z.H, t0 + i, j0, columns, w.keep);
      differentiate_row(o, biased ? w.bias : nullptr, o.dropout_p > 0 ? w.keep : nullptr,
                        lse[t0 + i], u.delta[r * z.T + t0 + i], columns, w.weights + i * kTileK,
                        w.slopes + i * kTileK);
    }
    const Matrix weights{w.weights, DType::float32, kTileK, 1},
        slopes{w.slopes, DType::float32, kTileK, 1};
    const index_t row_lanes = pack.lanes(rows), key_lanes = pack.lanes(count);
    pack.pack<kMR>(weights, 0, rows, 0, count, w.by_key);
    multiply_tile(pairs, w.by_key, kMR * row_lanes, u.dout_n + slot * z.query_n, kNR * row_lanes,
                  row_lanes, count, z.stride, true, dvalue, z.stride);
    pack.pack<kMR>(slopes, 0, rows, 0, count, w.by_key);
    multiply_tile(pairs, w.by_key, kMR * row_lanes, u.query_n + slot * z.query_n, kNR * row_lanes,
                  row_lanes, count, z.stride, true, dkey, z.stride);
    pack.pack<kMR>(slopes.transposed(), 0, count, 0, rows, w.by_query);
    multiply_tile(pairs, w.by_query, kMR * key_lanes, u.key_n + tile * z.key_n, kNR * key_lanes,
                  key_lanes, rows, z.stride, true,
                  u.dquery + ((r * z.chunks + chunk) * z.T + t0) * z.stride, z.stride);
  }
}

// out[d] = sum over parts, in order.
template <class T>
void add_parts(const float* first, index_t parts, index_t step, index_t D, T* out) {
  const auto body = [&](index_t d, auto... n) {
    Vec sum = Vec::load(first + d);
    for (index_t i = 1; i < parts; ++i) sum = sum + Vec::load(first + i * step + d);
    sum.store(out + d, n...);
  };
  for_each_vec(D, body, body);
}

void write_gradients(const AttentionBackward& a, const Sizes& z, const Sequence& s, index_t g,
                     const Unit& u) {
  switch_float(a.query.dtype, [&](auto type) {
    using T = decltype(type);
    for (index_t r = 0; r < z.R; ++r) {
      const Matrix to = head_rows(a.dquery, s.b, s.q0, g * z.R + r);
      for (index_t t = 0; t < s.T; ++t) {
        add_parts(u.dquery + (r * z.chunks * z.T + t) * z.stride, z.chunks, z.T * z.stride, z.D,
                  const_cast<T*>(static_cast<const T*>(to.data)) + t * to.row_stride);
      }
    }
    const Matrix dkey = head_rows(a.dkey, s.b, s.k0, g), dvalue = head_rows(a.dvalue, s.b, s.k0, g);
    for (index_t j = 0; j < s.S; ++j) {
      add_parts(u.dkey + j * z.stride, z.R, z.S * z.stride, z.D,
                const_cast<T*>(static_cast<const T*>(dkey.data)) + j * dkey.row_stride);
      add_parts(u.dvalue + j * z.stride, z.R, z.S * z.stride, z.D,
                const_cast<T*>(static_cast<const T*>(dvalue.data)) + j * dvalue.row_stride);
    }
  });
}

}  // namespace

void attention_backward(const AttentionBackward& a, Context& ctx) {
  const Sizes z = sizes_of(a);
  if (z.T == 0 && z.S == 0) return;
  Workspace& ws = ctx.workspace();
  const index_t units = sequence_count(a.options, a.query.shape[0]) * z.G, threads = num_threads();
  Unit probe;
  const index_t unit_lanes = lay_out(z, nullptr, probe);
  const index_t some = min_of(units, max_of(threads, kUnitBytes / (unit_lanes * 4)));
  auto* memory = ws.take<uint32_t>(some * unit_lanes);
  auto* list = ws.take<Unit>(some);
  for (index_t i = 0; i < some; ++i) lay_out(z, memory + i * unit_lanes, list[i]);
  auto* scratch = ws.take<Scratch>(threads);
  for (index_t i = 0; i < threads; ++i) {
    const index_t by_key = z.packing.size<kMR>(kTileQ, kTileK),
                  by_query = z.packing.size<kMR>(kTileK, kTileQ);
    scratch[i] = {ws.take<float>(kTileQ * kTileK), ws.take<float>(kTileQ * kTileK),
                  ws.take<float>(kTileK),          ws.take<float>(kTileK),
                  ws.take<uint32_t>(by_key),       ws.take<uint32_t>(by_query)};
  }
  const index_t packs = max_of(z.key_tiles, z.R * z.query_tiles);
  for (index_t first = 0; first < units; first += some) {
    const index_t count = min_of(some, units - first);
    const auto sequence = [&](index_t i) {
      return sequence_at(a.options, a.query, a.key, (first + i) / z.G);
    };
    parallel_for(count * packs, [&](index_t task, int) {
      const index_t i = task / packs, n = task % packs, g = (first + i) % z.G;
      const Sequence s = sequence(i);
      if (n * kTileK < s.S) pack_keys(a, z, s, g, n, list[i]);
      if (n < z.R * z.query_tiles && n % z.query_tiles * kTileQ < s.T) {
        pack_queries(a, z, s, g * z.R + n / z.query_tiles, n % z.query_tiles, list[i]);
      }
    });
    parallel_for(count * z.R * z.chunks, [&](index_t task, int thread) {
      const index_t i = task % count, rest = task / count, r = rest % z.R, chunk = rest / z.R;
      const Sequence s = sequence(i);
      const Unit& u = list[i];
      __builtin_memset(u.dquery + (r * z.chunks + chunk) * z.T * z.stride, 0,
                       static_cast<size_t>(s.T * z.stride) * sizeof(float));
      const index_t end = min_of(ceil_div(s.S, kTileK), (chunk + 1) * z.tiles_per_chunk);
      for (index_t tile = chunk * z.tiles_per_chunk; tile < end; ++tile) {
        key_tile(a, z, s, (first + i) % z.G * z.R + r, chunk, tile, u, scratch[thread]);
      }
    });
    parallel_for(count, [&](index_t i, int) {
      write_gradients(a, z, sequence(i), (first + i) % z.G, list[i]);
    });
  }
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
