#include "fusedlm/attention.h"

#include "core/check.h"
#include "core/dispatch.h"

namespace fusedlm {

FUSEDLM_KERNEL(attention_forward, AttentionForward)
FUSEDLM_KERNEL(attention_backward, AttentionBackward)

namespace {

void heads_like(const char* op, const char* argument, const TensorView& view,
                const TensorView& like, const char* like_name) {
  check::tensor(op, argument, view, 4, {like.dtype});
  check::shaped_like(op, argument, view, like, like_name);
  check::last_contiguous(op, argument, view);
}

void offsets(const char* op, const char* argument, const TensorView& view, index_t tokens,
             const char* like) {
  check::tensor(op, argument, view, 1, {DType::int32});
  check::contiguous(op, argument, view);
  const bool readable = check::readable(view);
  const int32_t* at = view.as<int32_t>();
  if (view.shape[0] < 1 || (readable && at[0] != 0))
    check::fail(op, std::string(argument) + " must start with 0");
  if (!readable) return;
  for (index_t i = 1; i < view.shape[0]; ++i) {
    if (at[i] < at[i - 1]) {
      check::fail(op, std::string(argument) + " falls from " + std::to_string(at[i - 1]) + " to " +
                          std::to_string(at[i]) + ", expected rising offsets");
    }
  }
  if (at[view.shape[0] - 1] > tokens) {
    check::fail(op, std::string(argument) + " ends at " + std::to_string(at[view.shape[0] - 1]) +
                        ", expected at most the " + std::to_string(tokens) + " tokens of " + like);
  }
}

void inputs(const char* op, const TensorView& query, const TensorView& key, const TensorView& value,
            const TensorView& lse, bool paged) {
  check::tensor(op, "query", query, 4, check::floats(query));
  check::last_contiguous(op, "query", query);
  check::tensor(
      op, "key", key, 4,
      {query.dtype, paged && query.dtype == DType::float32 ? DType::bfloat16 : query.dtype});
  check::last_contiguous(op, "key", key);
  if (!paged) check::dim(op, "key", key, 0, query.shape[0], "query");
  check::dim(op, "key", key, 3, query.shape[3], "query");
  heads_like(op, "value", value, key, "key");
  if (query.shape[3] == 0)
    check::fail(op, "query has shape " + shape_string(query) + ", expected D > 0");
  if (query.shape[2] && (key.shape[2] == 0 || query.shape[2] % key.shape[2])) {
    check::fail(op, "key has " + std::to_string(key.shape[2]) +
                        " heads, expected a divisor of the " + std::to_string(query.shape[2]) +
                        " heads of query");
  }
  check::tensor(op, "lse", lse, 3, {DType::float32});
  check::dim(op, "lse", lse, 0, query.shape[0], "query");
  check::dim(op, "lse", lse, 1, query.shape[2], "query");
  check::dim(op, "lse", lse, 2, query.shape[1], "query");
  check::contiguous(op, "lse", lse);
}

/// Returns S.
index_t check_block_table(const char* op, const AttentionOptions& o, const TensorView& query,
                          const TensorView& key) {
  const index_t pages = key.shape[0], page = key.shape[1];
  check::tensor(op, "block_table", o.block_table, 2, {DType::int32});
  check::dim(op, "block_table", o.block_table, 0, query.shape[0], "query");
  check::last_contiguous(op, "block_table", o.block_table);
  if (o.cu_seqlens_q.defined()) check::fail(op, "block_table does not go with cu_seqlens_q");
  if (!o.kv_lengths.defined()) check::fail(op, "block_table is given without kv_lengths");
  return pages ? o.block_table.shape[1] * page : 0;
}

/// Entries behind kv_lengths may be anything.
void check_pages(const char* op, const AttentionOptions& o, const TensorView& key) {
  const index_t pages = key.shape[0], page = key.shape[1];
  if (!check::readable(o.block_table) || !check::readable(o.kv_lengths)) return;
  for (index_t b = 0; b < o.block_table.shape[0]; ++b) {
    const int32_t* row = o.block_table.row<int32_t>(b);
    for (index_t j = 0; j * page < o.kv_lengths.as<int32_t>()[b]; ++j) {
      if (row[j] >= 0 && row[j] < pages) continue;
      check::fail(op, "block_table has " + std::to_string(row[j]) + " at [" + std::to_string(b) +
                          ", " + std::to_string(j) + "], expected 0 to " +
                          std::to_string(pages - 1) + ", a page of key");
    }
  }
}

void check_options(const char* op, const AttentionOptions& o, const TensorView& query,
                   const TensorView& key) {
  const index_t B = query.shape[0], T = query.shape[1], H = query.shape[2];
  const bool paged = o.block_table.defined();
  const index_t S = paged ? check_block_table(op, o, query, key) : key.shape[1];
  if (o.window < 0)
    check::fail(op, "window is " + std::to_string(o.window) + ", expected at least 1");
  if (!(o.softcap >= 0))
    check::fail(op, "softcap is " + std::to_string(o.softcap) + ", expected at least 0");
  if (!(o.dropout_p >= 0 && o.dropout_p < 1)) {
    check::fail(op, "dropout_p is " + std::to_string(o.dropout_p) + ", expected 0 <= p < 1");
  }
  if (o.mask.defined()) {
    check::tensor(op, "mask", o.mask, 4, {DType::boolean, DType::float32, DType::bfloat16});
    const index_t shape[4] = {B, H, T, S};
    for (int d = 0; d < 4; ++d) check::dim(op, "mask", o.mask, d, shape[d], "query and key");
  }
  if (o.key_padding_mask.defined()) {
    check::tensor(op, "key_padding_mask", o.key_padding_mask, 2, {DType::boolean});
    check::dim(op, "key_padding_mask", o.key_padding_mask, 0, B, "key");
    check::dim(op, "key_padding_mask", o.key_padding_mask, 1, S, "key");
  }
  if (o.alibi_slopes.defined()) {
    check::tensor(op, "alibi_slopes", o.alibi_slopes, 1, {DType::float32});
    check::dim(op, "alibi_slopes", o.alibi_slopes, 0, H, "query");
    check::contiguous(op, "alibi_slopes", o.alibi_slopes);
  }
  if (o.cu_seqlens_q.defined() != o.cu_seqlens_k.defined()) {
    check::fail(op, "cu_seqlens_q and cu_seqlens_k belong together, but only one is given");
  }
  if (o.cu_seqlens_q.defined()) {
    offsets(op, "cu_seqlens_q", o.cu_seqlens_q, T, "query");
    offsets(op, "cu_seqlens_k", o.cu_seqlens_k, S, "key");
    check::dim(op, "cu_seqlens_k", o.cu_seqlens_k, 0, o.cu_seqlens_q.shape[0], "cu_seqlens_q");
    if (B != 1)
      check::fail(op,
                  "query has shape " + shape_string(query) + ", expected B = 1 with cu_seqlens_q");
    if (o.mask.defined() || o.key_padding_mask.defined() || o.kv_lengths.defined()) {
      check::fail(op, "mask, key_padding_mask and kv_lengths do not go with cu_seqlens_q");
    }
  }
  if (o.kv_lengths.defined()) {
    check::tensor(op, "kv_lengths", o.kv_lengths, 1, {DType::int32});
    check::dim(op, "kv_lengths", o.kv_lengths, 0, B, "query");
    check::contiguous(op, "kv_lengths", o.kv_lengths);
    for (index_t b = 0; b < B && check::readable(o.kv_lengths); ++b) {
      const int32_t length = o.kv_lengths.as<int32_t>()[b];
      if (length < 0 || length > S) {
        check::fail(op, "kv_lengths[" + std::to_string(b) + "] is " + std::to_string(length) +
                            ", expected 0 to " + std::to_string(S));
      }
    }
  }
  if (paged) check_pages(op, o, key);
}

}  // namespace

void attention_forward(const AttentionForward& args, Context& ctx) {
  constexpr const char* op = "attention";
  const bool paged = args.options.block_table.defined();
  inputs(op, args.query, args.key, args.value, args.lse, paged);
  heads_like(op, "out", args.out, args.query, "query");
  check_options(op, args.options, args.query, args.key);
  if (args.query.numel() == 0) {
    const check::Call nothing_to_do;
    return;
  }
  dispatch_attention_forward(args, ctx);
}

void attention_backward(const AttentionBackward& args, Context& ctx) {
  constexpr const char* op = "attention_backward";
  if (args.options.block_table.defined()) {
    check::fail(op, "block_table is for the forward alone: keys in pages have no gradient");
  }
  inputs(op, args.query, args.key, args.value, args.lse, false);
  heads_like(op, "out", args.out, args.query, "query");
  heads_like(op, "dout", args.dout, args.query, "query");
  heads_like(op, "dquery", args.dquery, args.query, "query");
  heads_like(op, "dkey", args.dkey, args.key, "key");
  heads_like(op, "dvalue", args.dvalue, args.key, "key");
  check_options(op, args.options, args.query, args.key);
  dispatch_attention_backward(args, ctx);
}

}  // namespace fusedlm
