// Flash attention, forward (Dao 2023). Keys and values of a (sequence, key-value head) are packed
// once; a task is one tile of kTileQ queries of one head, which walks over tiles of kTileK keys:
//   scores^T = K Q^T    a running maximum m and sum l for each query (the online softmax of Milakov
//   & Gimelshein 2018)    out^T = out^T * 2^(m_old - m) + V^T P^T
// Tiles are transposed, queries across the vectors (see attention_product.h), and stay in L1. Tiles
// that causality or the window hide are skipped, and the last one is cut to what is visible. Scores
// are scaled to powers of 2.

#include "fusedlm/attention.h"

#include "cpu/attention_tiles.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

// Up to so many queries the panels would be used once only. With pages they are tokens to be checked
// (speculative decoding), whose results must not depend on how many come together.
constexpr index_t kFewQueries = 4, kFewPagedQueries = 16;
// Packed keys and values kept at a time: a share of the L3, and far below the tensors themselves.
constexpr index_t kPackedBytes = index_t{16} << 20;

struct Sizes {
  index_t H, G, R, D, max_T, max_S, key_tiles;  // R heads share a key-value head
  Packing packing;
  index_t row_lanes, key_lanes, value_tile_lanes;  // of a key, of all keys, of a tile of values
};

// What one thread needs for a tile.
struct Scratch {
  uint32_t *query, *weights;  // weights: the scores' own memory where products are float32
  float *scores, *out, *bias, *keep, *rows, *maximum, *sum, *factor;
  void* gathered;  // a tile of keys or values of a page table
};

Sizes sizes_of(const AttentionForward& a) {
  Sizes z{};
  z.H = a.query.shape[2], z.G = a.key.shape[2], z.R = z.H / z.G, z.D = a.query.shape[3];
  z.packing = Packing::of(a.query.dtype);
  const Longest longest = longest_of(a.options, a.query, a.key);
  z.max_T = longest.T, z.max_S = longest.S;
  z.key_tiles = ceil_div(z.max_S, kTileK);
  z.row_lanes = z.packing.lanes(z.D);
  z.key_lanes = z.key_tiles * kTileK * z.row_lanes;
  z.value_tile_lanes = z.packing.panels(kTileK, z.D);
  return z;
}

// Scores of `count` keys -> x, scaled to powers of 2, capped, biased and masked, in place.
void prepare_scores(const AttentionOptions& o, const Scratch& w, const VisibleLanes* visible,
                    index_t j0, index_t count) {
  const Vec scale(o.softcap > 0 ? o.scale / o.softcap : o.scale * kLog2E);
  const Vec cap(o.softcap * kLog2E);
  for (index_t j = 0; j < count; ++j) {
    float* row = w.scores + j * kTileQ;
    for (index_t i = 0; i < kTileQ; i += Vec::size) {
      Vec x = Vec::load(row + i) * scale;
      if (o.softcap > 0) x = cap * tanh(x);
      if (w.bias) x = x + Vec::load(w.bias + j * kTileQ + i);
      if (visible) x = visible->keep(x, i, j0 + j);
      x.store(row + i);
    }
  }
}

FUSEDLM_VEC Vec weight_of(const Scratch& w, index_t at, Vec scale, Vec shift, Vec& total) {
  const Vec p = exp2(fma(Vec::load(w.scores + at), scale, shift));
  total = total + p;
  return w.keep ? p * Vec::load(w.keep + at) : p;
}

// Scores -> weights, scale * score - maximum, as the B operand of the next product; updates maximum
// and sum of each query and leaves the factor for what was summed before.
void softmax_tile(const Packing& packing, float scale_by, index_t count, const Scratch& w) {
  const Vec scale(scale_by);
  for (index_t i = 0; i < kTileQ; i += Vec::size) {
    const Vec before = Vec::load(w.maximum + i);
    Vec top = before, other = before;
    index_t j = 0;
    for (; j + 2 <= count; j += 2) {
      top = max(top, Vec::load(w.scores + j * kTileQ + i) * scale);
      other = max(other, Vec::load(w.scores + (j + 1) * kTileQ + i) * scale);
    }
    if (j < count) top = max(top, Vec::load(w.scores + j * kTileQ + i) * scale);
    top = max(top, other);
    // A query that has seen no key yet keeps -inf, and its weights 2^-inf.
    const Vec shift = select_less(Vec(-kInfinity), top, Vec(0.0f) - top, Vec(0.0f));
    Vec total, rest;
    j = 0;
#if defined(FUSEDLM_ISA_AVX512_BF16)
    if (packing.pairs) {
      for (; j + 2 <= count; j += 2) {
        const Vec low = weight_of(w, j * kTileQ + i, scale, shift, total);
        const Vec high = weight_of(w, (j + 1) * kTileQ + i, scale, shift, rest);
        store_pairs(low, high, w.weights + j / 2 * kTileQ + i);
      }
      if (j < count) {
        store_pairs(weight_of(w, j * kTileQ + i, scale, shift, total), Vec(),
                    w.weights + j / 2 * kTileQ + i);
      }
      j = count;
    }
#endif
    (void)packing;
    for (; j < count; ++j) {
      weight_of(w, j * kTileQ + i, scale, shift, total).store(w.scores + j * kTileQ + i);
    }
    const Vec factor = exp2(before + shift);
    fma(Vec::load(w.sum + i), factor, total + rest).store(w.sum + i);
    top.store(w.maximum + i);
    factor.store(w.factor + i);
  }
}

void query_tile(const AttentionForward& a, const Sizes& z, const Sequence& s, index_t h, index_t t0,
                const uint32_t* keys, const uint32_t* values, Scratch w) {
  const AttentionOptions& o = a.options;
  const Packing& pack = z.packing;
  const index_t rows = min_of(kTileQ, s.T - t0);
  pack.pack_panels(head_rows(a.query, s.b, s.q0 + t0, h).transposed(), z.D, rows, w.query);
  for (index_t i = 0; i < kTileQ; ++i) w.maximum[i] = -kInfinity, w.sum[i] = 0.0f;
  const index_t low = visible(o, s, t0).low, high = visible(o, s, t0 + rows - 1).high;
  const VisibleLanes lanes(o, s, t0, rows, kTileQ);
  const bool biased = has_bias(o);
  if (!biased) w.bias = nullptr;
  if (o.dropout_p == 0) w.keep = nullptr;
  Start start = Start::zero;
  for (index_t j0 = low / kTileK * kTileK; j0 < high; j0 += kTileK) {
    const index_t used = min_of(kTileK, high - j0);
    const index_t in_tile = min_of(kTileK, s.S - j0);  // how deep its values were packed
    multiply_rows(pack.pairs, keys + j0 * z.row_lanes, z.row_lanes, w.query, z.row_lanes, used,
                  w.scores, kTileQ);
    if (biased || o.dropout_p > 0) {
      tile_extras(o, s, h, z.H, t0, rows, kTileQ, j0, used, w.bias, w.keep, w.rows);
    }
    const bool cut = !biased && !all_visible(o, s, t0, rows, j0, used);
    float scale = o.scale * kLog2E;
    if (biased || cut || o.softcap > 0) {
      prepare_scores(o, w, cut ? &lanes : nullptr, j0, used);
      scale = 1.0f;
    }
    softmax_tile(pack, scale, used, w);
    multiply_panels(pack.pairs, values + j0 / kTileK * z.value_tile_lanes,
                    kNR * pack.lanes(in_tile), w.weights, pack.lanes(used), z.D, w.out, kTileQ,
                    start, w.factor);
    start = Start::scale;
  }
  const index_t depth = ceil_div(z.D, Vec::size) * Vec::size;
  if (start == Start::zero) {
    __builtin_memset(w.out, 0, static_cast<size_t>(depth * kTileQ) * sizeof(float));
  }
  float* by_query = w.rows;  // as wide as kTileK or D, see take_scratch
  transpose(w.out, kTileQ, depth, kTileQ, by_query, depth);
  for (index_t i = 0; i < rows; ++i) {
    write_out(a, s, h, t0 + i, by_query + i * depth, w.maximum[i], w.sum[i]);
  }
}

Scratch take_scratch(const Sizes& z, bool paged, Context& ctx) {
  Workspace& ws = ctx.workspace();
  const index_t depth = ceil_div(z.D, Vec::size) * Vec::size;
  Scratch w{};
  w.query = ws.take<uint32_t>(z.row_lanes * kNR);
  w.scores = ws.take<float>(kTileK * kTileQ);
  w.weights = z.packing.pairs ? ws.take<uint32_t>(kTileK / 2 * kTileQ)
                              : reinterpret_cast<uint32_t*>(w.scores);
  w.out = ws.take<float>(depth * kTileQ);
  w.bias = ws.take<float>(kTileK * kTileQ);
  w.keep = ws.take<float>(kTileK * kTileQ);
  w.rows = ws.take<float>(kTileQ * max_of(kTileK, depth));
  w.maximum = ws.take<float>(kTileQ);
  w.sum = ws.take<float>(kTileQ);
  w.factor = ws.take<float>(kTileQ);
  w.gathered = paged ? ws.take<float>(kTileK * z.D) : nullptr;
  return w;
}

// Rows [j0, j0 + count) of a key-value head, one after another: pages are brought together first.
Matrix tile_rows(const AttentionForward& a, const TensorView& x, const Sequence& s, index_t g,
                 index_t j0, index_t count, void* gathered) {
  if (!a.options.block_table.defined()) return head_rows(x, s.b, s.k0 + j0, g);
  const index_t D = x.shape[3];
  switch_float(x.dtype, [&](auto type) {
    using T = decltype(type);
    const T* rows[kTileK];
    locate_rows(x, a.options, s, g, j0, count, rows);
    for (index_t j = 0; j < count; ++j) {
      __builtin_memcpy(static_cast<T*>(gathered) + j * D, rows[j],
                       static_cast<size_t>(D) * sizeof(T));
    }
  });
  return {gathered, x.dtype, D, 1};
}

void pack_tile(const AttentionForward& a, const Sizes& z, index_t unit, index_t tile,
               uint32_t* packed, const Scratch& w) {
  const index_t j0 = tile * kTileK, g = unit % z.G;
  const Sequence s = sequence_at(a.options, a.query, a.key, unit / z.G);
  if (j0 >= s.S) return;
  const index_t in_tile = min_of(kTileK, s.S - j0);
  z.packing.pack_rows(tile_rows(a, a.key, s, g, j0, in_tile, w.gathered), in_tile, z.D,
                      packed + j0 * z.row_lanes);
  z.packing.pack_panels(tile_rows(a, a.value, s, g, j0, in_tile, w.gathered), in_tile, z.D,
                        packed + z.key_lanes + tile * z.value_tile_lanes);
}

// Head r of a unit, query tile `tile`.
void multiply_tile(const AttentionForward& a, const Sizes& z, index_t unit, index_t r, index_t tile,
                   const uint32_t* packed, const Scratch& w) {
  const Sequence s = sequence_at(a.options, a.query, a.key, unit / z.G);
  if (tile * kTileQ >= s.T) return;
  query_tile(a, z, s, unit % z.G * z.R + r, tile * kTileQ, packed, packed + z.key_lanes, w);
}

}  // namespace

void attention_forward(const AttentionForward& a, Context& ctx) {
  const Sizes z = sizes_of(a);
  if (z.max_T == 0) return;  // every sequence is empty
  const index_t few = a.options.block_table.defined() ? kFewPagedQueries : kFewQueries;
  if (z.max_T <= few) return attention_of_few_queries(a, z.max_T, z.max_S, ctx);
  Workspace& ws = ctx.workspace();
  const index_t units = sequence_count(a.options, a.query.shape[0]) * z.G, threads = num_threads();
  const index_t unit_lanes = z.key_lanes + z.key_tiles * z.value_tile_lanes;
  // With units enough for all threads each is packed and used by one, and stays in its L2; else several
  // threads share what is packed.
  const bool alone = one_thread_each(units, unit_lanes);
  const index_t fitting = kPackedBytes / max_of(1, unit_lanes * index_t{4});
  const index_t some = alone ? threads : min_of(units, max_of(threads, fitting));
  auto* packed = ws.take<uint32_t>(some * unit_lanes);
  auto* scratch = ws.take<Scratch>(threads);
  for (index_t i = 0; i < threads; ++i) {
    scratch[i] = take_scratch(z, a.options.block_table.defined(), ctx);
  }
  const index_t query_tiles = ceil_div(z.max_T, kTileQ), products = z.R * query_tiles;
  if (alone) {
    parallel_for(units, [&](index_t unit, int thread) {
      uint32_t* mine = packed + thread * unit_lanes;
      for (index_t tile = 0; tile < z.key_tiles; ++tile) {
        pack_tile(a, z, unit, tile, mine, scratch[thread]);
      }
      for (index_t n = 0; n < products; ++n) {
        multiply_tile(a, z, unit, n / query_tiles, n % query_tiles, mine, scratch[thread]);
      }
    });
    return;
  }
  for (index_t first = 0; first < units; first += some) {
    const index_t count = min_of(some, units - first);
    parallel_for(count * z.key_tiles, [&](index_t task, int thread) {
      const index_t i = task / z.key_tiles;
      pack_tile(a, z, first + i, task % z.key_tiles, packed + i * unit_lanes, scratch[thread]);
    });
    // The last tiles of a causal sequence see the most keys: they go first.
    parallel_for(count * products, [&](index_t task, int thread) {
      const index_t tile = query_tiles - 1 - task / (count * z.R), rest = task % (count * z.R);
      const index_t i = rest / z.R;
      multiply_tile(a, z, first + i, rest % z.R, tile, packed + i * unit_lanes, scratch[thread]);
    });
  }
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
