// Flash attention, backward (Dao 2023). A task is one head and one chunk of keys: for each tile of
// keys it walks over the tiles of queries that see it, recomputes P = exp(scores - lse), and adds
//   dV += P^T dO    dP = dO V^T    dS = P * (dP - delta)    dK += dS^T Q    dQ^T += K^T dS^T
// with delta = sum(dO * O) for each query; the scale of the scores is applied once, at the end.
// Tiles are held transposed, keys down and queries across (see attention_product.h): a row of P^T
// or dS^T is at once an A operand, and dS^T by pairs of keys the B operand for dQ^T. All operands
// are packed once beforehand. dK and dV of each head and dQ of each chunk are float32 sums of their
// own, added in a fixed order at the end. The number of chunks follows from the shapes alone, so
// results do not depend on the number of threads.

#include "cpu/attention_backward_unit.h"

namespace fusedlm::cpu::FUSEDLM_ISA {
namespace {

// Packed operands and partial sums kept at a time.
constexpr index_t kUnitBytes = index_t{32} << 20;
// Keys that go through the products together where all queries see them: each panel of B comes from L2
// once for 32 rows instead of for 8 (bfloat16 B1 H12 T1024 D64: 13.2 against 13.8 ms).
constexpr index_t kGroupRows = 32;

struct Scratch {
  float *scores, *dweights, *bias, *keep, *rows;  // of kGroupRows keys; whole tiles
  uint32_t *weights, *slopes,
      *slopes_n;  // [keys][lanes of queries] twice, [panel][lanes of keys][kNR]
  // Whether sums of dkey and dvalue (a block of keys) and of dquery (a panel) have begun: the first
  // products write them, so that they need not be cleared.
  bool *seen_keys, *seen_queries;
};

// A tile of keys and of queries, and how its lanes are masked. Of each panel of queries only the keys
// [begin, end) are seen, in whole blocks.
struct Tile {
  index_t j0, keys, rows, panels;
  index_t begin[2], end[2];
  const float *lse, *delta;
  const VisibleLanes* visible;  // null where all is seen, or the bias says what is not
  const float *bias, *keep;     // [keys][kQueries] or null
};

struct Derived {
  Vec weight, slope;  // P (with dropout) and dS
};

// Key `row` of a block, tile key `j`, query lanes from `i` on.
FUSEDLM_VEC Derived differentiate(const AttentionOptions& o, const Tile& t, const Scratch& w,
                                  index_t row, index_t j, index_t i) {
  const Vec raw = Vec::load(w.scores + row * kQueries + i),
            shift = Vec(0.0f) - Vec::load(t.lse + i);
  Vec x, capped;
  if (o.softcap > 0) {
    capped = tanh(raw * Vec(o.scale / o.softcap));
    x = fma(capped, Vec(o.softcap * kLog2E), shift);
  } else {
    x = fma(raw, Vec(o.scale * kLog2E), shift);
  }
  if (t.bias) x = x + Vec::load(t.bias + j * kQueries + i);
  if (t.visible) x = t.visible->keep(x, i, t.j0 + j);
  const Vec p = exp2(x);
  Vec dp = Vec::load(w.dweights + row * kQueries + i);
  Derived d{p, Vec()};
  if (t.keep) {
    const Vec keep = Vec::load(t.keep + j * kQueries + i);
    dp = dp * keep;
    d.weight = p * keep;
  }
  d.slope = (dp - Vec::load(t.delta + i)) * p;
  if (o.softcap > 0) d.slope = d.slope * (Vec(1.0f) - capped * capped);
  return d;
}

// A block of scores and dP -> rows of P^T and dS^T, and dS^T as the B operand of dQ^T.
void differentiate_block(const AttentionOptions& o, const Packing& pack, const Tile& t, index_t j,
                         index_t keys, index_t first_panel, index_t end_panel, const Scratch& w) {
  const index_t row_lanes = pack.lanes(kQueries), panel_lanes = pack.lanes(kKeys) * kNR;
#if defined(FUSEDLM_ISA_AVX512_BF16)
  if (pack.pairs) {
    for (index_t r = 0; r < keys; r += 2) {
      const bool both = r + 1 < keys;
      for (index_t i = first_panel * kTileQ; i < end_panel * kTileQ; i += kNR) {
        Derived at[2][2];
#pragma GCC unroll 2
        for (index_t v = 0; v < 2; ++v) {
          at[0][v] = differentiate(o, t, w, r, j + r, i + v * Vec::size);
          at[1][v] = both ? differentiate(o, t, w, r + 1, j + r + 1, i + v * Vec::size) : Derived{};
          store_pairs(at[0][v].slope, at[1][v].slope,
                      w.slopes_n + i / kNR * panel_lanes + (j + r) / 2 * kNR + v * Vec::size);
        }
        for (index_t k = 0; k < (both ? 2 : 1); ++k) {
          const index_t to = (j + r + k) * row_lanes + i / 2;
          store_halves(at[k][0].weight, at[k][1].weight, w.weights + to);
          store_halves(at[k][0].slope, at[k][1].slope, w.slopes + to);
        }
      }
    }
    return;
  }
#endif
  auto *weights = reinterpret_cast<float*>(w.weights), *slopes = reinterpret_cast<float*>(w.slopes),
       *slopes_n = reinterpret_cast<float*>(w.slopes_n);
  for (index_t r = 0; r < keys; ++r) {
    for (index_t i = first_panel * kTileQ; i < end_panel * kTileQ; i += Vec::size) {
      const Derived d = differentiate(o, t, w, r, j + r, i);
      d.weight.store(weights + (j + r) * row_lanes + i);
      d.slope.store(slopes + (j + r) * row_lanes + i);
      d.slope.store(slopes_n + i / kNR * panel_lanes + (j + r) * kNR + i % kNR);
    }
  }
}

Start start_of(bool& seen) {
  const Start start = seen ? Start::add : Start::zero;
  seen = true;
  return start;
}

void tile_pair(const AttentionBackward& a, const BackwardSizes& z, const Sequence& s, index_t h,
               index_t chunk, index_t key_tile, index_t query_tile, const BackwardUnit& u,
               const Scratch& w) {
  const AttentionOptions& o = a.options;
  const bool pairs = z.packing.pairs;
  const index_t r = h % z.R, j0 = key_tile * kKeys, t0 = query_tile * kQueries;
  const index_t slot = r * z.query_tiles + query_tile;
  Tile t{};
  t.j0 = j0, t.keys = min_of(kKeys, s.S - j0), t.rows = min_of(kQueries, s.T - t0);
  t.panels = ceil_div(t.rows, kTileQ);
  t.lse = u.lse + slot * kQueries, t.delta = u.delta + slot * kQueries;
  for (index_t p = 0; p < t.panels; ++p) {
    const index_t first = t0 + p * kTileQ, last = min_of(first + kTileQ, s.T) - 1;
    const index_t low = visible(o, s, first).low - j0, high = visible(o, s, last).high - j0;
    t.begin[p] = max_of(0, low) / kBlockRows * kBlockRows;
    t.end[p] = min_of(t.keys, ceil_div(max_of(0, high), kBlockRows) * kBlockRows);
  }
  const VisibleLanes lanes(o, s, t0, t.rows, kQueries);
  if (has_bias(o)) {
    t.bias = w.bias;
  } else if (!all_visible(o, s, t0, t.rows, j0, t.keys)) {
    t.visible = &lanes;
  }
  if (o.dropout_p > 0) t.keep = w.keep;
  if (t.bias || t.keep) {
    tile_extras(o, s, h, z.H, t0, t.rows, kQueries, j0, t.keys, t.bias ? w.bias : nullptr,
                t.keep ? w.keep : nullptr, w.rows);
  }
  const uint32_t *query_t = u.query_t + slot * z.query_t, *dout_t = u.dout_t + slot * z.query_t,
                 *query_n = u.query_n + slot * z.query_n, *dout_n = u.dout_n + slot * z.query_n;
  const index_t depth = z.packing.lanes(t.rows), row_lanes = z.packing.lanes(kQueries);
  bool whole = true;
  for (index_t p = 0; p < t.panels; ++p) whole = whole && t.begin[p] == 0 && t.end[p] == t.keys;
  const index_t step =
      whole ? kGroupRows : kBlockRows;  // else what a panel does not see is left out
  for (index_t j = 0; j < t.keys; j += step) {
    const index_t some = min_of(step, t.keys - j);
    index_t first = 0, end = t.panels;
    while (first < end && (j < t.begin[first] || j >= t.end[first])) ++first;
    while (first < end && (j < t.begin[end - 1] || j >= t.end[end - 1])) --end;
    if (first == end) continue;
    for (index_t p = first; p < end; ++p) {
      multiply_rows(pairs, u.key + (j0 + j) * z.row, z.row, query_t + p * z.row * kNR, z.row, some,
                    w.scores + p * kTileQ, kQueries);
      multiply_rows(pairs, u.value + (j0 + j) * z.row, z.row, dout_t + p * z.row * kNR, z.row, some,
                    w.dweights + p * kTileQ, kQueries);
    }
    differentiate_block(o, z.packing, t, j, some, first, end, w);
    const index_t from = first * z.packing.lanes(kTileQ),
                  lanes_left = min_of(depth, end * z.packing.lanes(kTileQ)) - from;
    const uint32_t *weights = w.weights + j * row_lanes + from,
                   *slopes = w.slopes + j * row_lanes + from;
    const index_t row = (r * z.S + j0 + j) * z.stride;
    Start starts[kGroupRows / kBlockRows];
    for (index_t i = 0; i < some; i += kBlockRows) {
      starts[i / kBlockRows] = start_of(w.seen_keys[(j + i) / kBlockRows]);
    }
    // A panel of B serves all the rows before the next one takes its place in L1.
    const auto add = [&](const uint32_t* a, const uint32_t* b, float* sums) {
      for (index_t i = 0; i < some; i += kBlockRows) {
        multiply_rows(pairs, a + i * row_lanes, row_lanes, b, lanes_left,
                      min_of(kBlockRows, some - i), sums + i * z.stride, z.stride,
                      starts[i / kBlockRows]);
      }
    };
    for (index_t d = 0; d < z.stride; d += kNR) {
      add(weights, dout_n + d * depth + from * kNR, u.dvalue + row + d);
      add(slopes, query_n + d * depth + from * kNR, u.dkey + row + d);
    }
  }
  const index_t key_depth = z.packing.lanes(t.keys);
  float* dquery =
      u.dquery + ((r * z.chunks + chunk) * z.query_tiles * 2 + query_tile * 2) * z.depth * kTileQ;
  for (index_t p = 0; p < t.panels; ++p) {
    if (t.begin[p] >= t.end[p]) continue;
    const index_t from = z.packing.lanes(t.begin[p]), to = z.packing.lanes(t.end[p]);
    multiply_panels(pairs, u.key_n + key_tile * z.key_n + from * kNR, kNR * key_depth,
                    w.slopes_n + (p * z.packing.lanes(kKeys) + from) * kNR, to - from, z.D,
                    dquery + p * z.depth * kTileQ, kTileQ,
                    start_of(w.seen_queries[query_tile * 2 + p]));
  }
}

// Of `rows` rows of `stride` floats, in blocks: those of blocks that no product has written become 0.
void clear_unseen(const bool* seen, index_t rows, index_t block, index_t stride, float* sums) {
  for (index_t j = 0; j < rows; j += block) {
    if (seen[j / block]) continue;
    __builtin_memset(sums + j * stride, 0,
                     static_cast<size_t>(min_of(block, rows - j) * stride) * sizeof(float));
  }
}

// out[d] = scale * sum over parts, in order.
template <class T>
void add_parts(const float* first, index_t parts, index_t step, index_t D, float scale, T* out) {
  const auto body = [&](index_t d, auto... n) {
    Vec sum = parts ? Vec::load(first + d) : Vec();
    for (index_t i = 1; i < parts; ++i) sum = sum + Vec::load(first + i * step + d);
    (sum * Vec(scale)).store(out + d, n...);
  };
  for_each_vec(D, body, body);
}

void write_dquery(const AttentionBackward& a, const BackwardSizes& z, const Sequence& s, index_t h,
                  index_t panel, const BackwardUnit& u, const Scratch& w) {
  const index_t size = z.depth * kTileQ, panels = z.query_tiles * 2, t0 = panel * kTileQ;
  float* first = u.dquery + (h % z.R * z.chunks * panels + panel) * size;
  if (z.chunks > 1) add_parts(first, z.chunks, panels * size, size, 1.0f, first);
  float* by_query = w.rows;
  transpose(first, kTileQ, z.depth, kTileQ, by_query, z.depth);
  const Matrix to = head_rows(a.dquery, s.b, s.q0 + t0, h);
  switch_float(a.query.dtype, [&](auto type) {
    using T = decltype(type);
    for (index_t i = 0; i < min_of(kTileQ, s.T - t0); ++i) {
      add_parts(by_query + i * z.depth, 1, 0, z.D, a.options.scale,
                const_cast<T*>(static_cast<const T*>(to.data)) + i * to.row_stride);
    }
  });
}

void write_keys(const AttentionBackward& a, const BackwardSizes& z, const Sequence& s, index_t g,
                index_t tile, const BackwardUnit& u) {
  const Matrix dkey = head_rows(a.dkey, s.b, s.k0, g), dvalue = head_rows(a.dvalue, s.b, s.k0, g);
  const index_t end = min_of(s.S, (tile + 1) * kKeys), step = z.S * z.stride;
  switch_float(a.query.dtype, [&](auto type) {
    using T = decltype(type);
    for (index_t j = tile * kKeys; j < end; ++j) {
      add_parts(u.dkey + j * z.stride, z.R, step, z.D, a.options.scale,
                const_cast<T*>(static_cast<const T*>(dkey.data)) + j * dkey.row_stride);
      add_parts(u.dvalue + j * z.stride, z.R, step, z.D, 1.0f,
                const_cast<T*>(static_cast<const T*>(dvalue.data)) + j * dvalue.row_stride);
    }
  });
}

Scratch take_scratch(const BackwardSizes& z, Context& ctx) {
  Workspace& ws = ctx.workspace();
  const index_t row_lanes = z.packing.lanes(kQueries);
  return {ws.take<float>(kGroupRows * kQueries),
          ws.take<float>(kGroupRows * kQueries),
          ws.take<float>(kKeys * kQueries),
          ws.take<float>(kKeys * kQueries),
          ws.take<float>(kQueries * max_of(kTileK, z.depth)),
          ws.take<uint32_t>(kKeys * row_lanes),
          ws.take<uint32_t>(kKeys * row_lanes),
          ws.take<uint32_t>(2 * z.packing.lanes(kKeys) * kNR),
          ws.take<bool>(kKeys / kBlockRows),
          ws.take<bool>(z.query_tiles * 2)};
}

// The three stages of a unit, in pieces that may run on different threads.
struct Stages {
  const AttentionBackward& a;
  const BackwardSizes& z;

  Sequence sequence(index_t unit) const {
    return sequence_at(a.options, a.query, a.key, unit / z.G);
  }
  index_t tiles() const { return max_of(z.key_tiles, z.R * z.query_tiles); }

  // Piece n < tiles().
  void pack(index_t unit, index_t n, const BackwardUnit& u) const {
    const Sequence s = sequence(unit);
    if (n * kKeys < s.S) pack_keys(a, z, s, unit % z.G, n, u);
    if (n < z.R * z.query_tiles && n % z.query_tiles * kQueries < s.T) {
      pack_queries(a, z, s, unit % z.G * z.R + n / z.query_tiles, n % z.query_tiles, u);
    }
  }

  // Piece n < R * chunks.
  void multiply(index_t unit, index_t n, const BackwardUnit& u, const Scratch& w) const {
    const index_t r = n % z.R, chunk = n / z.R, h = unit % z.G * z.R + r;
    const index_t panels = z.query_tiles * 2;
    const Sequence s = sequence(unit);
    __builtin_memset(w.seen_queries, 0, static_cast<size_t>(panels));
    const index_t end = min_of(ceil_div(s.S, kKeys), (chunk + 1) * z.tiles_per_chunk);
    for (index_t tile = chunk * z.tiles_per_chunk; tile < end; ++tile) {
      const index_t j0 = tile * kKeys, keys = min_of(kKeys, s.S - j0);
      __builtin_memset(w.seen_keys, 0, kKeys / kBlockRows);
      for (index_t t0 = 0; t0 < s.T; t0 += kQueries) {
        const index_t rows = min_of(kQueries, s.T - t0);
        if (visible(a.options, s, t0).low >= j0 + keys ||
            visible(a.options, s, t0 + rows - 1).high <= j0) {
          continue;
        }
        tile_pair(a, z, s, h, chunk, tile, t0 / kQueries, u, w);
      }
      const index_t at = (r * z.S + j0) * z.stride;
      clear_unseen(w.seen_keys, keys, kBlockRows, z.stride, u.dkey + at);
      clear_unseen(w.seen_keys, keys, kBlockRows, z.stride, u.dvalue + at);
    }
    clear_unseen(w.seen_queries, panels, 1, z.depth * kTileQ,
                 u.dquery + (r * z.chunks + chunk) * panels * z.depth * kTileQ);
  }

  // Piece n < 2 * tiles().
  void write(index_t unit, index_t n, const BackwardUnit& u, const Scratch& w) const {
    const Sequence s = sequence(unit);
    const index_t panels = z.query_tiles * 2, g = unit % z.G;
    if (n * kKeys < s.S) write_keys(a, z, s, g, n, u);
    if (n < z.R * panels && n % panels * kTileQ < s.T) {
      write_dquery(a, z, s, g * z.R + n / panels, n % panels, u, w);
    }
  }
};

}  // namespace

void attention_backward(const AttentionBackward& a, Context& ctx) {
  const BackwardSizes z = sizes_of(a);
  if (z.T == 0 && z.S == 0) return;
  Workspace& ws = ctx.workspace();
  const Stages stages{a, z};
  const index_t units = sequence_count(a.options, a.query.shape[0]) * z.G, threads = num_threads();
  BackwardUnit probe;
  const index_t unit_lanes = lay_out(z, nullptr, probe);
  // With units enough for all threads each is done by one, from start to end, and stays in its L2; else
  // several threads share a unit, stage by stage.
  const bool alone = one_thread_each(units, unit_lanes);
  const index_t some =
      alone ? threads : min_of(units, max_of(threads, kUnitBytes / max_of(1, unit_lanes * 4)));
  auto* memory = ws.take<uint32_t>(some * unit_lanes);
  auto* list = ws.take<BackwardUnit>(some);
  for (index_t i = 0; i < some; ++i) lay_out(z, memory + i * unit_lanes, list[i]);
  auto* scratch = ws.take<Scratch>(threads);
  for (index_t i = 0; i < threads; ++i) scratch[i] = take_scratch(z, ctx);
  const index_t packs = stages.tiles(), products = z.R * z.chunks, writes = 2 * packs;
  if (alone) {
    parallel_for(units, [&](index_t unit, int thread) {
      const BackwardUnit& u = list[thread];
      for (index_t n = 0; n < packs; ++n) stages.pack(unit, n, u);
      for (index_t n = 0; n < products; ++n) stages.multiply(unit, n, u, scratch[thread]);
      for (index_t n = 0; n < writes; ++n) stages.write(unit, n, u, scratch[thread]);
    });
    return;
  }
  for (index_t first = 0; first < units; first += some) {
    const index_t count = min_of(some, units - first);
    parallel_for(count * packs, [&](index_t task, int) {
      stages.pack(first + task / packs, task % packs, list[task / packs]);
    });
    parallel_for(count * products, [&](index_t task, int thread) {
      const index_t i = task % count;
      stages.multiply(first + i, task / count, list[i], scratch[thread]);
    });
    parallel_for(count * writes, [&](index_t task, int thread) {
      const index_t i = task / writes;
      stages.write(first + i, task % writes, list[i], scratch[thread]);
    });
  }
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
