#pragma once
#include "fusedlm/device.h"
#include "fusedlm/tensor.h"

namespace fusedlm {

/// What shapes the scores. Query t of T and key j of S lie at distance (t + S - T) - j: the last query
/// stands on the last key (bottom-right alignment). S is kv_lengths[b] where that is given.
///   causal           keep distance >= 0
///   window W > 0     keep |distance| < W
///   softcap c > 0    score = c tanh(score / c), before anything is added
///   dropout_p, seed  weights dropped by Philox4x32-10 (Salmon et al. 2011), counted by batch, head, t and j
///   mask             [B, H, T, S] boolean (true keeps) or float32|bfloat16 (added; -inf drops); any
///                    strides, 0 to broadcast
///   key_padding_mask [B, S] boolean, true keeps
///   alibi_slopes     [H] float32: -slope |distance| is added (Press et al. 2022, arXiv:2108.12409)
///   cu_seqlens_q/_k  [n + 1] int32, both or none, with B = 1: sequence i owns tokens [cu[i], cu[i + 1])
///                    and sees no other
///   kv_lengths       [B] int32, at most S: keys behind are not read (a cache filled in part)
///   block_table      [B, n] int32, forward only, with kv_lengths: key and value are pages
///                    [pages, page, G, D] of a cache, and key j of row b lies in page block_table[b, j / page],
///                    at j % page (Kwon et al. 2023, arXiv:2309.06180); S is n page. Entries behind
///                    kv_lengths[b] are not read. Up to 16 queries a row, what each gets on the CPU is the same
///                    bits as if it were alone
struct AttentionOptions {
  bool causal = false;
  index_t window = 0;
  float scale = 1.0f;
  float softcap = 0.0f;
  float dropout_p = 0.0f;
  uint64_t seed = 0;
  TensorView mask{}, key_padding_mask{}, alibi_slopes{}, cu_seqlens_q{}, cu_seqlens_k{},
      kv_lengths{}, block_table{};
};

/// out = softmax(scale query key^T) value in one pass over tiles, nothing of size T x S in memory
/// (FlashAttention-2, Dao 2023, arXiv:2307.08691). Query head h reads key-value head h / (H / G).
///   query, out  [B, T, H, D]  float32 or bfloat16, all the same, last dimension contiguous
///   key, value  [B, S, G, D]  G divides H; on the CPU, in pages, they may be bfloat16 with a float32 query
///   lse         [B, H, T]     float32, log of the sum of exp(score); +inf where a query sees no key (its
///                             out is 0)
/// Throws as every op (errors.h), on CUDA Unsupported for a D without a kernel too.
struct AttentionForward {
  TensorView query, key, value, out, lse;
  AttentionOptions options{};
};
void attention_forward(const AttentionForward& args, Context& ctx);

/// Gradients, with scores recomputed from lse. Parallel over batch, heads and chunks of keys; sums in
/// float32 and in a fixed order. Rows that belong to no sequence are not written.
///   dout, dquery as query; dkey, dvalue as key
/// Throws as the forward, and InvalidArgument for a block_table.
struct AttentionBackward {
  TensorView dout, query, key, value, out, lse, dquery, dkey, dvalue;
  AttentionOptions options{};
};
void attention_backward(const AttentionBackward& args, Context& ctx);

}  // namespace fusedlm
