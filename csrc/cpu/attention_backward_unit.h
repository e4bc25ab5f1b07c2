#pragma once
// What the backward of attention keeps for one (sequence, key-value head): its operands, packed once, and
// the float32 sums of its gradients.

#include "cpu/attention_tiles.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

// Enough tasks to feed a few cores where batch and heads alone do not.
constexpr index_t kTasks = 8;
// Queries (two panels) and keys of a tile: with bfloat16 its P^T, dS^T and the B form of dS^T are 8
// KiB each, and the products over 32 lanes are long beside loading and storing their sums.
constexpr index_t kQueries = 2 * kTileQ, kKeys = 64;

struct BackwardSizes {
  index_t H, G, R, D, stride, depth, T, S;  // stride, depth: D in whole panels, whole vectors
  index_t query_tiles, key_tiles, chunks, tiles_per_chunk;
  Packing packing;
  // In lanes: a row of D, a tile's queries in panels of queries or of D, a tile's keys in panels of
  // D.
  index_t row, query_t, query_n, key_n;
};

// Packed operands and sums of one (sequence, key-value head).
struct BackwardUnit {
  uint32_t *key, *value;                          // [S][row]
  uint32_t* key_n;                                // for each key tile
  uint32_t *query_t, *dout_t, *query_n, *dout_n;  // for each head and query tile
  float *delta, *lse;                             // [R][T in whole tiles], lse in powers of 2
  float *dquery, *dkey, *dvalue;  // [R][chunks][panels of queries][D][kTileQ], [R][S][stride] twice
};

inline BackwardSizes sizes_of(const AttentionBackward& a) {
  BackwardSizes z{};
  z.H = a.query.shape[2], z.G = a.key.shape[2], z.R = z.G ? z.H / z.G : 0;
  z.D = a.query.shape[3];
  z.stride = ceil_div(z.D, kNR) * kNR;
  z.depth = ceil_div(z.D, Vec::size) * Vec::size;
  z.packing = Packing::of(a.query.dtype);
  const Longest longest = longest_of(a.options, a.query, a.key);
  z.T = longest.T, z.S = longest.S;
  const index_t count = sequence_count(a.options, a.query.shape[0]);
  z.query_tiles = ceil_div(z.T, kQueries);
  z.key_tiles = ceil_div(z.S, kKeys);
  const index_t wanted = ceil_div(kTasks, max_of(1, count * z.H));
  z.tiles_per_chunk = max_of(1, ceil_div(z.key_tiles, wanted));
  z.chunks = max_of(1, ceil_div(z.key_tiles, z.tiles_per_chunk));
  z.row = z.packing.lanes(z.D);
  z.query_t = z.row * kQueries;
  z.query_n = z.packing.panels(kQueries, z.D);
  z.key_n = z.packing.panels(kKeys, z.D);
  return z;
}

// Everything of a unit in one stretch; null base counts only.
inline index_t lay_out(const BackwardSizes& z, uint32_t* base, BackwardUnit& u) {
  index_t used = 0;
  const auto take = [&](index_t count) {
    uint32_t* at = base ? base + used : nullptr;
    used += ceil_div(count, 16) * 16;
    return at;
  };
  const auto take_float = [&](index_t count) { return reinterpret_cast<float*>(take(count)); };
  const index_t queries = z.R * z.query_tiles;
  u.key = take(z.S * z.row);
  u.value = take(z.S * z.row);
  u.key_n = take(z.key_tiles * z.key_n);
  u.query_t = take(queries * z.query_t);
  u.dout_t = take(queries * z.query_t);
  u.query_n = take(queries * z.query_n);
  u.dout_n = take(queries * z.query_n);
  u.delta = take_float(queries * kQueries);
  u.lse = take_float(queries * kQueries);
  u.dquery = take_float(z.chunks * queries * kQueries * z.depth);
  u.dkey = take_float(z.R * z.S * z.stride);
  u.dvalue = take_float(z.R * z.S * z.stride);
  return used;
}

inline void pack_keys(const AttentionBackward& a, const BackwardSizes& z, const Sequence& s,
                      index_t g, index_t tile, const BackwardUnit& u) {
  const index_t j0 = tile * kKeys, count = min_of(kKeys, s.S - j0);
  const Matrix key = head_rows(a.key, s.b, s.k0 + j0, g),
               value = head_rows(a.value, s.b, s.k0 + j0, g);
  z.packing.pack_rows(key, count, z.D, u.key + j0 * z.row);
  z.packing.pack_rows(value, count, z.D, u.value + j0 * z.row);
  z.packing.pack_panels(key, count, z.D, u.key_n + tile * z.key_n);
}

inline void pack_queries(const AttentionBackward& a, const BackwardSizes& z, const Sequence& s,
                         index_t h, index_t tile, const BackwardUnit& u) {
  const index_t t0 = tile * kQueries, rows = min_of(kQueries, s.T - t0), r = h % z.R;
  const index_t slot = r * z.query_tiles + tile;
  const Matrix query = head_rows(a.query, s.b, s.q0 + t0, h),
               dout = head_rows(a.dout, s.b, s.q0 + t0, h),
               out = head_rows(a.out, s.b, s.q0 + t0, h);
  z.packing.pack_panels(query.transposed(), z.D, rows, u.query_t + slot * z.query_t);
  z.packing.pack_panels(dout.transposed(), z.D, rows, u.dout_t + slot * z.query_t);
  z.packing.pack_panels(query, rows, z.D, u.query_n + slot * z.query_n);
  z.packing.pack_panels(dout, rows, z.D, u.dout_n + slot * z.query_n);
  float *delta = u.delta + slot * kQueries, *lse = u.lse + slot * kQueries;
  const float* saved = a.lse.as<float>() + (s.b * z.H + h) * a.query.shape[1] + s.q0 + t0;
  for (index_t i = 0; i < kQueries; ++i) {
    // Lanes behind the last query get weights of 0.
    lse[i] = i < rows ? saved[i] * kLog2E : kInfinity;
    delta[i] = 0.0f;
  }
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
      delta[i] = reduce_sum(dot);
    }
  });
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
