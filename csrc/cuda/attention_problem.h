#pragma once
// What every attention kernel is told: sizes, options, where the rows of a head lie; and how a block
// finds the sequence it works on. Nothing here looks at device memory on the host.

#include <string>

#include "cuda/launch.h"
#include "cuda/types.h"
#include "fusedlm/attention.h"

namespace fusedlm::FUSEDLM_DEVICE {

constexpr float kLog2E = 1.44269504088896341f;  // scores are powers of 2, which exp2 takes
constexpr float kLn2 = 0.693147180559945309f;

/// Rows of one head, one a token.
template <class T>
struct HeadRows {
  T* data;
  index_t stride;
  __device__ __forceinline__ T* at(int token) const { return data + token * stride; }
};

/// Where a cache in pages has the keys of each sequence.
struct Pages {
  const int* table;  // null: keys are not in pages
  index_t stride;    // of the table's rows
  int count, size;
  uint32_t inverse;  // of the size, times 2^shift: divides what is below 2^31 by one multiplication
  int shift;
};

inline Pages pages_of(const TensorView& table, const TensorView& key) {
  Pages pages{};
  if (!table.defined()) return pages;
  pages.table = table.as<int>(), pages.stride = table.strides[0];
  pages.count = static_cast<int>(key.shape[0]), pages.size = static_cast<int>(key.shape[1]);
  pages.shift = 31;
  for (index_t power = 1; power < pages.size; power *= 2) ++pages.shift;
  pages.inverse = static_cast<uint32_t>(
      ceil_of<uint64_t>(uint64_t{1} << pages.shift, pages.size > 0 ? pages.size : 1));
  return pages;
}

/// Rows of one head in the pages of a sequence, of which `last` is the last. Those behind it are at
/// its place; what the table says is cut to the pages there are, since on a GPU nobody has checked it.
template <class T>
struct PagedRows {
  HeadRows<T> first;  // of page 0
  index_t page_stride;
  const int* table;
  const Pages& pages;
  int last;
  __device__ __forceinline__ T* at(int token) const {
    token = min(token, last);
    const auto page = static_cast<int>(static_cast<uint64_t>(token) * pages.inverse >> pages.shift);
    const int number = max(0, min(table[page], pages.count - 1));
    return first.at(token - page * pages.size) + number * page_stride;
  }
};

/// A tensor [B, N, heads, D], or pages [pages, page, heads, D].
template <class T>
struct Heads {
  T* data;
  index_t batch, token, head;  // strides
  bool packed;                 // rows start on 16 bytes
  __device__ __forceinline__ HeadRows<T> rows(int b, int first, int h) const {
    return {data + b * batch + first * token + h * head, token};
  }
};

template <class T>
Heads<T> heads_of(const TensorView& view) {
  // The stride of a dimension of one is anybody's; addresses behind its end stay aligned.
  const index_t token = view.shape[1] > 1 ? view.strides[1] : 0;
  return {view.as<T>(), view.strides[0], token, view.strides[2], can_pack(view)};
}

/// Distances (query to key) that causality and window leave.
struct Band {
  int low, high;
  __device__ __forceinline__ bool sees(int distance) const {
    return static_cast<unsigned>(distance) - static_cast<unsigned>(low) <=
           static_cast<unsigned>(high) - static_cast<unsigned>(low);
  }
};
constexpr int kFar = 1 << 30;  // beyond any distance

/// The instances of a kernel: without options; with all of them; and the latter over keys in pages.
/// (Pages and both ways to the scores are too much for the registers.)
enum class Variant { plain, options, paged };

enum class MaskKind : int { none, boolean, float32, bfloat16 };

struct Problem {
  int T, S, H, G, R, D;  // R query heads share a key-value head
  int sequences;
  Band band;
  const int *cu_q, *cu_k, *kv_lengths;
  // Scores in powers of 2: scale * (q k), or cap * tanh(scale * (q k)) where cap is not 0.
  float scale, cap;
  float slope_scale;  // of dquery and dkey: the option itself
  bool dropout;
  uint32_t drop_below;
  float keep_scale;
  uint64_t seed;
  const void* mask;
  MaskKind mask_kind;
  index_t mask_strides[4];
  const uint8_t* padding;
  index_t padding_strides[2];
  const float* slopes;
  Pages pages;
  bool options;  // has_extras()

  /// Whether scores need more than their scale, and causality and window at the edges. Then the
  /// kernels built for it are taken. (A maximum of products is one of scores for scale > 0 only.)
  bool has_extras() const {
    return mask || padding || slopes || cap != 0.0f || dropout || !(scale > 0.0f);
  }
};

inline Problem problem_of(const AttentionOptions& o, const TensorView& query,
                          const TensorView& key) {
  Problem p{};
  const bool paged = o.block_table.defined();
  const index_t S = !paged         ? key.shape[1]
                    : key.shape[0] ? o.block_table.shape[1] * key.shape[1]
                                   : 0;
  if (query.shape[1] + S >= kFar || key.shape[0] >= kFar || query.shape[0] >= kFar ||
      query.shape[2] >= kFar) {
    throw Unsupported("attention on CUDA: query has shape " + shape_string(query) +
                      ", expected B, H, pages and T + S below 2^30");
  }
  p.T = static_cast<int>(query.shape[1]), p.S = static_cast<int>(S);
  p.H = static_cast<int>(query.shape[2]), p.G = static_cast<int>(key.shape[2]);
  p.D = static_cast<int>(query.shape[3]);
  p.R = p.G ? p.H / p.G : 0;
  p.cu_q = o.cu_seqlens_q.as<int>(), p.cu_k = o.cu_seqlens_k.as<int>();
  p.kv_lengths = o.kv_lengths.as<int>();
  p.sequences = static_cast<int>(p.cu_q ? o.cu_seqlens_q.shape[0] - 1 : query.shape[0]);
  const int window = o.window > 0 && o.window < kFar ? static_cast<int>(o.window) - 1 : kFar;
  p.band = {o.causal ? 0 : -window, window};
  p.scale = o.softcap > 0 ? o.scale / o.softcap : o.scale * kLog2E;
  p.cap = o.softcap * kLog2E;
  p.slope_scale = o.scale;
  p.dropout = o.dropout_p > 0;
  p.drop_below = static_cast<uint32_t>(static_cast<double>(o.dropout_p) * 4294967296.0);
  p.keep_scale = 1.0f / (1.0f - o.dropout_p);
  p.seed = o.seed;
  if (o.mask.defined()) {
    p.mask = o.mask.data;
    p.mask_kind = o.mask.dtype == DType::boolean    ? MaskKind::boolean
                  : o.mask.dtype == DType::bfloat16 ? MaskKind::bfloat16
                                                    : MaskKind::float32;
    for (int d = 0; d < 4; ++d) p.mask_strides[d] = o.mask.strides[d];
  }
  if (o.key_padding_mask.defined()) {
    p.padding = o.key_padding_mask.as<uint8_t>();
    for (int d = 0; d < 2; ++d) p.padding_strides[d] = o.key_padding_mask.strides[d];
  }
  p.slopes = o.alibi_slopes.as<float>();
  p.pages = pages_of(o.block_table, key);
  p.options = p.has_extras();
  return p;
}

/// One sequence: T queries from row q0 of batch b on, S keys from row k0 on.
struct Sequence {
  int b, q0, T, k0, S;
};

__device__ __forceinline__ int between(int low, int x, int high) { return max(low, min(x, high)); }

/// Offsets and lengths are cut to what the tensors hold: on a GPU nobody has checked them.
__device__ __forceinline__ Sequence sequence_at(const Problem& p, int i) {
  if (p.cu_q) {
    const int q0 = between(0, p.cu_q[i], p.T), k0 = between(0, p.cu_k[i], p.S);
    return {0, q0, between(0, p.cu_q[i + 1] - q0, p.T - q0), k0,
            between(0, p.cu_k[i + 1] - k0, p.S - k0)};
  }
  return {i, 0, p.T, 0, p.kv_lengths ? between(0, p.kv_lengths[i], p.S) : p.S};
}

/// Keys or values of a sequence that key-value head g has.
template <Variant kVariant, class T>
__device__ __forceinline__ auto keys_of(const Problem& p, const Heads<T>& heads, const Sequence& s,
                                        int g) {
  if constexpr (kVariant == Variant::paged) {
    return PagedRows<T>{heads.rows(0, 0, g), heads.batch, p.pages.table + s.b * p.pages.stride,
                        p.pages, s.S - 1};
  } else {
    return heads.rows(s.b, s.k0, g);
  }
}

// A block works on one tile of `size` rows of one head. Lengths of packed sequences are known to the
// device alone, so there sequence i gets the slots from cu[i] / size + i on: at least as many as it
// has tiles, and found by a binary search. Slots left over end at once.

/// Blocks for the tiles of all sequences and heads: of queries with cu_q, of keys with cu_k.
inline unsigned tile_blocks(const Problem& p, const int* cu, int rows, int size, int heads) {
  if (p.sequences == 0) return 0;
  const index_t slots = cu ? rows / size + p.sequences : ceil_of<index_t>(rows, size) * p.sequences;
  return blocks_of(slots * heads);
}

struct Place {
  Sequence s;
  int head, tile;  // tile: counted within the sequence, may lie behind its end
};

/// Where block `block` of sequences x heads x slots works, slots the fastest.
__device__ __forceinline__ Place place_at(const Problem& p, const int* cu, int rows, int size,
                                          int heads, unsigned block) {
  if (!cu) {
    const unsigned tiles = ceil_of(rows, size), unit = block / tiles;
    return {sequence_at(p, static_cast<int>(unit / heads)), static_cast<int>(unit % heads),
            static_cast<int>(block % tiles)};
  }
  const unsigned slots = rows / size + p.sequences;
  const int slot = static_cast<int>(block % slots);
  const auto first_slot = [&](int i) { return between(0, cu[i], rows) / size + i; };
  int low = 0, high = p.sequences - 1;  // the last sequence that starts at or before the slot
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (first_slot(middle) <= slot) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return {sequence_at(p, low), static_cast<int>(block / slots), slot - first_slot(low)};
}

/// The tile of queries of a block. Causal: those with the most keys come first.
__device__ __forceinline__ Place queries_at(const Problem& p, int size, unsigned block) {
  Place at = place_at(p, p.cu_q, p.T, size, p.H, block);
  const int tiles = ceil_of(at.s.T, size);
  if (p.band.low == 0 && at.tile < tiles) at.tile = tiles - 1 - at.tile;
  return at;
}

/// Rows or keys [low, high), empty where high <= low.
struct Span {
  int low, high;
};

/// Keys that some query of [t0, t1] sees.
__device__ __forceinline__ Span seen_by_any(const Band& band, const Sequence& s, int t0, int t1) {
  const index_t shift = s.S - s.T;
  return {static_cast<int>(max(index_t{0}, shift + t0 - band.high)),
          static_cast<int>(min(index_t{s.S}, shift + t1 - band.low + 1))};
}

/// Whether no query of [t0, t1] sees a key of [j0, j1], and whether each sees each.
__device__ __forceinline__ bool all_hidden(const Band& band, const Sequence& s, int t0, int t1,
                                           int j0, int j1) {
  const int shift = s.S - s.T;
  return t1 + shift - j0 < band.low || t0 + shift - j1 > band.high || j0 >= s.S;
}
__device__ __forceinline__ bool all_seen(const Band& band, const Sequence& s, int t0, int t1,
                                         int j0, int j1) {
  const int shift = s.S - s.T;
  return t0 + shift - j1 >= band.low && t1 + shift - j0 <= band.high && j1 < s.S;
}

/// Queries that see some key of [j0, j1].
__device__ __forceinline__ Span seeing_any(const Band& band, const Sequence& s, int j0, int j1) {
  const index_t shift = s.S - s.T;
  return {static_cast<int>(max(index_t{0}, j0 - shift + band.low)),
          static_cast<int>(min(index_t{s.T}, j1 - shift + band.high + 1))};
}

/// fn(std::integral_constant<int, kD>) with the smallest of the widths that holds D.
template <int... kWidths, class Fn>
void with_head_width(index_t D, Fn&& fn) {
  bool done = false;
  const auto take = [&](auto width) {
    if (done || D > decltype(width)::value) return;
    done = true;
    fn(width);
  };
  (take(std::integral_constant<int, kWidths>{}), ...);
  if (!done) {
    throw Unsupported("attention on CUDA: query has D=" + std::to_string(D) +
                      ", expected at most 256");
  }
}

}  // namespace fusedlm::FUSEDLM_DEVICE
