#pragma once
// What forward and backward share: which queries meet which keys, and what is added to their
// scores.

#include "cpu/attention_product.h"
#include "cpu/philox.h"
#include "cpu/switch.h"
#include "fusedlm/attention.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

/// Queries of a tile, across the vectors: one panel. Small, so that little of a causal tile is
/// waste.
constexpr index_t kTileQ = kNR;
/// Keys of a tile: its scores (128 x 32 x 4 B = 16 KiB) stay in L1 beside the tile's weights.
constexpr index_t kTileK = 128;

constexpr float kInfinity = __builtin_inff();

/// One sequence: T queries from row q0 of batch b on, S keys from row k0 on.
struct Sequence {
  index_t b, q0, T, k0, S;
};

/// Keys [low, high) that causality and window leave to query t.
struct Visible {
  index_t low, high;
};
FUSEDLM_VEC Visible visible(const AttentionOptions& o, const Sequence& s, index_t t) {
  const index_t at = t + s.S - s.T;
  Visible v{0, s.S};
  const index_t window = min_of(o.window, index_t{1} << 62);  // as far as sums go
  if (window) v = {max_of(0, at - window + 1), min_of(s.S, at + window)};
  if (o.causal) v.high = min_of(v.high, at + 1);
  return v.high > v.low ? v : Visible{v.low, v.low};
}

inline index_t sequence_count(const AttentionOptions& o, index_t B) {
  return o.cu_seqlens_q.defined() ? o.cu_seqlens_q.shape[0] - 1 : B;
}
inline Sequence sequence_at(const AttentionOptions& o, const TensorView& query,
                            const TensorView& key, index_t i) {
  if (o.cu_seqlens_q.defined()) {
    const int32_t *q = o.cu_seqlens_q.as<int32_t>(), *k = o.cu_seqlens_k.as<int32_t>();
    return {0, q[i], q[i + 1] - q[i], k[i], k[i + 1] - k[i]};
  }
  const index_t S = o.kv_lengths.defined() ? o.kv_lengths.as<int32_t>()[i] : key.shape[1];
  return {i, 0, query.shape[1], 0, S};
}
/// The most queries and keys of any sequence.
struct Longest {
  index_t T = 0, S = 0;
};
inline Longest longest_of(const AttentionOptions& o, const TensorView& query,
                          const TensorView& key) {
  Longest longest;
  for (index_t i = 0; i < sequence_count(o, query.shape[0]); ++i) {
    const Sequence s = sequence_at(o, query, key, i);
    longest = {max_of(longest.T, s.T), max_of(longest.S, s.S)};
  }
  return longest;
}

namespace detail {
template <class M>
void add_mask(const M* mask, index_t step, index_t count, float* bias) {
  for (index_t j = 0; j < count; ++j) {
    if constexpr (sizeof(M) == 1) {
      bias[j] = mask[j * step] ? bias[j] : -kInfinity;
    } else {
      bias[j] = bias[j] + to_float(mask[j * step]);
    }
  }
}
}  // namespace detail

/// Writes what is added to the scores of query t, head h, keys [j0, j0 + count): -inf where
/// dropped. False, with nothing written, where that is 0 throughout.
inline bool score_bias(const AttentionOptions& o, const Sequence& s, index_t h, index_t t,
                       index_t j0, index_t count, float* bias) {
  const Visible v = visible(o, s, t);
  const bool inside = v.low <= j0 && v.high >= j0 + count;
  const bool extras = o.mask.defined() || o.key_padding_mask.defined() || o.alibi_slopes.defined();
  if (inside && !extras) return false;
  const index_t first = min_of(count, max_of(0, v.low - j0)),
                last = max_of(first, min_of(count, v.high - j0));
  for (index_t j = 0; j < first; ++j) bias[j] = -kInfinity;
  for (index_t j = last; j < count; ++j) bias[j] = -kInfinity;
  const float slope = o.alibi_slopes.defined() ? o.alibi_slopes.as<float>()[h] : 0.0f;
  const float at = static_cast<float>(t + s.S - s.T - j0);
  for (index_t j = first; j < last; ++j)
    bias[j] = -slope * __builtin_fabsf(at - static_cast<float>(j));
  if (!extras) return true;
  if (o.key_padding_mask.defined()) {
    const TensorView& m = o.key_padding_mask;
    detail::add_mask(m.as<uint8_t>() + s.b * m.strides[0] + (j0 + first) * m.strides[1],
                     m.strides[1], last - first, bias + first);
  }
  if (o.mask.defined()) {
    const TensorView& m = o.mask;
    const index_t at_row =
        s.b * m.strides[0] + h * m.strides[1] + t * m.strides[2] + (j0 + first) * m.strides[3];
    if (m.dtype == DType::boolean) {
      detail::add_mask(m.as<uint8_t>() + at_row, m.strides[3], last - first, bias + first);
    } else {
      switch_float(m.dtype, [&](auto type) {
        detail::add_mask(m.as<decltype(type)>() + at_row, m.strides[3], last - first, bias + first);
      });
    }
  }
  return true;
}

/// Factors of dropout for the same stretch: 0 or 1 / (1 - p).
inline void dropout_keep(const AttentionOptions& o, const Sequence& s, index_t h, index_t H,
                         index_t t, index_t j0, index_t count, float* keep) {
  const auto threshold = static_cast<uint32_t>(static_cast<double>(o.dropout_p) * 4294967296.0);
  philox_keep(o.seed, static_cast<uint32_t>(s.b * H + h), static_cast<uint32_t>(s.q0 + t), j0,
              count, threshold, 1.0f / (1.0f - o.dropout_p), keep);
}

/// Whether a unit of work is done by one thread from start to end: there are enough to even out, and what
/// is packed for one (in 32-bit lanes) stays in a core's L2.
inline bool one_thread_each(index_t units, index_t lanes) {
  constexpr index_t kUnitsPerThread = 4, kBytes = index_t{1} << 20;
  return units >= kUnitsPerThread * num_threads() && lanes * 4 <= kBytes;
}

/// Rows of one head, [rows, D] of a [B, N, heads, D] tensor from row `first` on.
inline Matrix head_rows(const TensorView& x, index_t b, index_t first, index_t h) {
  const index_t at = b * x.strides[0] + first * x.strides[1] + h * x.strides[2];
  return {static_cast<char*>(x.data) + at * size_of(x.dtype), x.dtype, x.strides[1], 1};
}

/// Where keys [j0, j0 + count) of key-value head g lie: x is key or value, [B, S, G, D] or pages.
template <class T>
void locate_rows(const TensorView& x, const AttentionOptions& o, const Sequence& s, index_t g,
                 index_t j0, index_t count, const T** rows) {
  const T* base = x.as<T>() + g * x.strides[2];
  if (!o.block_table.defined()) {
    base += s.b * x.strides[0] + (s.k0 + j0) * x.strides[1];
    for (index_t j = 0; j < count; ++j) rows[j] = base + j * x.strides[1];
    return;
  }
  const int32_t* table = o.block_table.row<int32_t>(s.b);
  const index_t page = x.shape[1];
  for (index_t j = 0; j < count;) {
    const index_t at = (j0 + j) % page, end = min_of(count, j + page - at);
    const T* row = base + table[(j0 + j) / page] * x.strides[0] + at * x.strides[1];
    for (; j < end; ++j, row += x.strides[1]) rows[j] = row;
  }
}

/// The keys that causality and window leave to each query of a tile, as floats for comparisons.
struct VisibleLanes {
  float low[2 * kTileQ], high[2 * kTileQ];
  /// Queries [t0, t0 + rows); those behind them see as the last one does.
  VisibleLanes(const AttentionOptions& o, const Sequence& s, index_t t0, index_t rows,
               index_t lanes) {
    for (index_t i = 0; i < lanes; ++i) {
      const Visible v = visible(o, s, t0 + min_of(i, rows - 1));
      low[i] = static_cast<float>(v.low);
      high[i] = static_cast<float>(v.high);
    }
  }
  /// x where query lane i sees key j, else -inf.
  FUSEDLM_VEC Vec keep(Vec x, index_t i, index_t j) const {
    const Vec at(static_cast<float>(j)), dropped(-kInfinity);
    return select_less(at, Vec::load(low + i), dropped,
                       select_less(at, Vec::load(high + i), x, dropped));
  }
};

/// Whether every query of [t0, t0 + rows) sees every key of [j0, j0 + count).
FUSEDLM_VEC bool all_visible(const AttentionOptions& o, const Sequence& s, index_t t0, index_t rows,
                             index_t j0, index_t count) {
  return visible(o, s, t0 + rows - 1).low <= j0 && visible(o, s, t0).high >= j0 + count;
}

/// Whether something beyond causality and window is added to the scores.
FUSEDLM_VEC bool has_bias(const AttentionOptions& o) {
  return o.mask.defined() || o.key_padding_mask.defined() || o.alibi_slopes.defined();
}

/// What is added to the scores of a tile (in powers of 2), and the factors of dropout, as
/// [count][lanes], count rounded up to whole vectors; either may be null. `row_buffer` holds lanes x
/// kTileK floats.
inline void tile_extras(const AttentionOptions& o, const Sequence& s, index_t h, index_t H,
                        index_t t0, index_t rows, index_t lanes, index_t j0, index_t count,
                        float* bias, float* keep, float* row_buffer) {
  const index_t columns = ceil_div(count, Vec::size) * Vec::size;
  for (float* out : {bias, keep}) {
    if (!out) continue;
    for (index_t r = 0; r < lanes; ++r) {
      float* row = row_buffer + r * kTileK;
      if (r < rows && out == keep) {
        dropout_keep(o, s, h, H, t0 + r, j0, columns, row);
      } else if (r < rows && score_bias(o, s, h, t0 + r, j0, count, row)) {
        for (index_t j = 0; j < count; ++j) row[j] *= kLog2E;
      } else {
        __builtin_memset(row, 0, static_cast<size_t>(columns) * sizeof(float));
      }
    }
    transpose(row_buffer, kTileK, lanes, columns, out, lanes);
  }
}

/// Packed operands, in 32-bit lanes: a float32, or a pair of bfloat16 neighbours.
struct Packing {
  bool pairs;
  /// That of operands of this dtype.
  static Packing of(DType dtype) { return {multiplies_pairs(dtype == DType::bfloat16)}; }
  index_t lanes(index_t depth) const { return pairs ? ceil_div(depth, 2) : depth; }
  /// Columns [0, columns) in panels of kNR, each `depth` deep.
  index_t panels(index_t depth, index_t columns) const {
    return ceil_div(columns, kNR) * kNR * lanes(depth);
  }
  /// Columns [0, columns) and rows [0, depth) of m, in panels.
  void pack_panels(const Matrix& m, index_t depth, index_t columns, uint32_t* out) const {
    fusedlm::cpu::FUSEDLM_ISA::pack_panels<kNR>(m, pairs, 0, depth, 0, columns, out,
                                                kNR * lanes(depth));
  }
  /// Rows [0, count) of m, `depth` wide and contiguous, as [count][lanes(depth)].
  void pack_rows(const Matrix& m, index_t count, index_t depth, uint32_t* out) const {
    switch_float(m.dtype, [&](auto type) {
      using T = decltype(type);
      for (index_t r = 0; r < count; ++r, out += lanes(depth)) {
        const T* from = static_cast<const T*>(m.data) + r * m.row_stride;
        if (pairs) {  // only bfloat16 is multiplied in pairs
          // Bits go through the vectors as they are; rows are too short for a call of memcpy.
          const auto copy = [&](index_t k, auto... n) {
            Vec::load(reinterpret_cast<const float*>(from) + k, n...)
                .store(reinterpret_cast<float*>(out) + k, n...);
          };
          for_each_vec(depth / 2, copy, copy);
          if (depth % 2) out[depth / 2] = detail::lane_of(from + depth - 1, 1, true, false);
        } else {
          convert_row(from, depth, reinterpret_cast<float*>(out));
        }
      }
    });
  }
};

/// One query's sums [D] to its row of out and lse; `maximum` in powers of 2.
inline void write_out(const AttentionForward& a, const Sequence& s, index_t h, index_t t,
                      const float* sums, float maximum, float sum) {
  const index_t D = a.query.shape[3];
  const index_t at = s.b * a.out.strides[0] + (s.q0 + t) * a.out.strides[1] + h * a.out.strides[2];
  const bool seen = sum > 0 || sum != sum;
  const Vec inverse(seen ? 1.0f / sum : 0.0f);
  switch_float(a.out.dtype, [&](auto type) {
    auto* out = a.out.as<decltype(type)>() + at;
    const auto body = [&](index_t d, auto... n) {
      (Vec::load(sums + d) * inverse).store(out + d, n...);
    };
    for_each_vec(D, body, body);
  });
  a.lse.as<float>()[(s.b * a.query.shape[2] + h) * a.query.shape[1] + s.q0 + t] =
      seen ? maximum / kLog2E + __builtin_logf(sum) : kInfinity;
}

/// The forward of at most max_T queries a sequence (decoding) over at most max_S keys, where packing would
/// cost more than it saves.
void attention_of_few_queries(const AttentionForward& a, index_t max_T, index_t max_S,
                              Context& ctx);

}  // namespace fusedlm::cpu::FUSEDLM_ISA
