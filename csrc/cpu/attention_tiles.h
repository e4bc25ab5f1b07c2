#pragma once
// What forward and backward share: which queries meet which keys, and what is added to their
// scores.

#include "cpu/gemm_kernel.h"
#include "cpu/philox.h"
#include "cpu/switch.h"
#include "fusedlm/attention.h"

namespace fusedlm::cpu::FUSEDLM_ISA {

// About 56 query rows: scores of a tile (56 x 128 x 4 B = 28 KiB) stay in L1, and an A panel is kMR
// rows.
constexpr index_t kTileQ = kMR * (56 / kMR);
// Keys of a tile: the depth of the second product, deep enough to hide the writing of its result.
constexpr index_t kTileK = 128;

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
  if (o.window) v = {max_of(0, at - o.window + 1), min_of(s.S, at + o.window)};
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

namespace detail {
template <class M>
void add_mask(const M* mask, index_t step, index_t count, float* bias) {
  constexpr float kDropped = -__builtin_inff();
  for (index_t j = 0; j < count; ++j) {
    if constexpr (sizeof(M) == 1) {
      bias[j] = mask[j * step] ? bias[j] : kDropped;
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
  constexpr float kDropped = -__builtin_inff();
  for (index_t j = 0; j < first; ++j) bias[j] = kDropped;
  for (index_t j = last; j < count; ++j) bias[j] = kDropped;
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

/// Rows of one head, [rows, D] of a [B, N, heads, D] tensor from row `first` on.
inline Matrix head_rows(const TensorView& x, index_t b, index_t first, index_t h) {
  const index_t at = b * x.strides[0] + first * x.strides[1] + h * x.strides[2];
  return {static_cast<char*>(x.data) + at * size_of(x.dtype), x.dtype, x.strides[1], 1};
}

/// Packed sizes, in 32-bit lanes, of panels of a given width.
struct Packing {
  bool pairs;
  index_t lanes(index_t depth) const { return pairs ? ceil_div(depth, 2) : depth; }
  /// Columns [0, columns) in panels of W, each `depth` deep.
  template <index_t W>
  index_t size(index_t depth, index_t columns) const {
    return ceil_div(columns, W) * W * lanes(depth);
  }
  /// Columns [c0, c0 + columns) and rows [k0, k0 + depth) of m.
  template <index_t W>
  void pack(const Matrix& m, index_t k0, index_t depth, index_t c0, index_t columns,
            uint32_t* out) const {
    for (index_t c = 0; c < columns; c += W, out += W * lanes(depth)) {
      pack_panel<W>(m, pairs, k0, depth, c0 + c, min_of(W, columns - c), out);
    }
  }
};

/// sums [rows][stride] = a * b (+ sums) of packed panels `depth` lanes deep; `columns` in whole
/// panels. a_step and b_step are the lanes from one panel to the next.
inline void multiply_tile(bool pairs, const uint32_t* a, index_t a_step, const uint32_t* b,
                          index_t b_step, index_t depth, index_t rows, index_t columns, bool add,
                          float* sums, index_t stride) {
  alignas(64) float tile[kMR * kNR];
  for (index_t j = 0; j < columns; j += kNR, b += b_step) {
    const uint32_t* panel = a;
    for (index_t i = 0; i < rows; i += kMR, panel += a_step) {
      const index_t some = min_of(kMR, rows - i);
      kernel_for(some)(pairs, panel, b, depth, tile);
      for (index_t r = 0; r < some; ++r) {
        float* to = sums + (i + r) * stride + j;
        const float* from = tile + r * kNR;
        if (add) {
          (Vec::load(to) + Vec::load(from)).store(to);
          (Vec::load(to + Vec::size) + Vec::load(from + Vec::size)).store(to + Vec::size);
        } else {
          Vec::load(from).store(to);
          Vec::load(from + Vec::size).store(to + Vec::size);
        }
      }
    }
  }
}

}  // namespace fusedlm::cpu::FUSEDLM_ISA
