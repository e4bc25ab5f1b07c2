"""Flash attention (Dao 2023, arXiv:2307.08691): softmax(query key^T) value without the scores in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ._support import core, define, dense_last, same_autocast_dtype

_OPTIONS = (
    "bool causal, int window, float scale, float softcap, float dropout_p, int seed, Tensor? mask,"
    " Tensor? key_padding_mask, Tensor? alibi_slopes, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k,"
    " Tensor? kv_lengths"
)


def _options(causal, window, scale, softcap, dropout_p, seed, mask, *rest):
    # Broadcast dimensions keep stride 0; everything small is made dense.
    rest = [None if t is None else t.contiguous() for t in rest]
    return core.AttentionOptions(
        causal, window, scale, softcap, dropout_p, seed % 2**64, mask, *rest
    )


def _forward(query, key, value, *options):
    out = torch.empty(query.shape, dtype=query.dtype)
    lse = torch.empty(query.shape[0], query.shape[2], query.shape[1], dtype=torch.float32)
    if options[9] is not None:  # tokens of no sequence
        out.zero_()
        lse.fill_(float("inf"))
    core.attention_forward(
        dense_last(query), dense_last(key), dense_last(value), out, lse, _options(*options)
    )
    return out, lse


def _forward_fake(query, key, value, *options):
    lse_shape = (query.shape[0], query.shape[2], query.shape[1])
    return query.new_empty(query.shape), query.new_empty(lse_shape, dtype=torch.float32)


def _backward(dout, query, key, value, out, lse, *options):
    partial = options[9] is not None or options[11] is not None  # rows that no sequence owns
    make = torch.zeros if partial else torch.empty
    dquery, dkey, dvalue = (make(t.shape, dtype=t.dtype) for t in (query, key, value))
    core.attention_backward(
        dense_last(dout),
        dense_last(query),
        dense_last(key),
        dense_last(value),
        dense_last(out),
        lse,
        dquery,
        dkey,
        dvalue,
        _options(*options),
    )
    return dquery, dkey, dvalue


def _backward_fake(dout, query, key, value, out, lse, *options):
    return tuple(t.new_empty(t.shape) for t in (query, key, value))


def _setup_context(ctx, inputs, output):
    query, key, value, *options = inputs
    out, lse = output
    ctx.scalars = options[:6]
    ctx.save_for_backward(query, key, value, out, lse, *options[6:])
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(lse)


def _autograd(ctx, dout, _dlse):
    if dout is None:
        return (None,) * 15
    query, key, value, out, lse, *tensors = ctx.saved_tensors
    grads = torch.ops.fusedlm.attention_backward(
        dout, query, key, value, out, lse, *ctx.scalars, *tensors
    )
    return *grads, *(None,) * 12


define(
    f"attention(Tensor query, Tensor key, Tensor value, {_OPTIONS}) -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
    setup_context=_setup_context,
    backward=_autograd,
)
define(
    "attention_backward(Tensor dout, Tensor query, Tensor key, Tensor value, Tensor out, Tensor lse,"
    f" {_OPTIONS}) -> (Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    softcap: float = 0.0,
    dropout_p: float = 0.0,
    seed: int | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    kv_lengths: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(scale * query key^T + bias) value: query [B, T, H, D], key and value [B, S, G, D].

    float32 or bfloat16, the same for all three; G divides H, and query head h reads key-value head
    h // (H / G). The last query stands on the last key: query t is at distance (t + S - T) - j of
    key j, where S is kv_lengths[b] if given. A query that sees no key gives zeros.

    causal keeps distances >= 0 and `window` W those below W either way. scale defaults to D^-0.5.
    mask broadcasts to [B, H, T, S]: boolean (True keeps) or floating (added); it gets no gradient.
    key_padding_mask [B, S] bool, True keeps. alibi_slopes [H]: -slope * |distance| is added.
    softcap c: score = c tanh(score / c). dropout_p drops weights by a counter-based generator;
    seed None draws one from torch's generator. cu_seqlens_q, cu_seqlens_k [n + 1] int32 (the
    second defaults to the first): n sequences packed along T with B = 1, none sees another.
    kv_lengths [B] int32: how many keys of each row count.

    Returns out [B, T, H, D]; with return_lse also the log-sum-exp of the scores [B, H, T] float32.
    Raises ValueError naming the argument that does not fit.
    """
    query, key, value = same_autocast_dtype(query, key, value)
    if query.dim() != 4 or key.dim() != 4:
        raise ValueError(
            f"attention: query has shape {list(query.shape)} and key {list(key.shape)},"
            " expected [B, T, H, D] and [B, S, G, D]"
        )
    if window is not None and window < 1:
        raise ValueError(f"attention: window is {window}, expected at least 1 or None")
    if mask is not None:
        mask = _mask_for(mask, query, key)
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"attention: dropout_p is {dropout_p}, expected 0 <= p < 1")
    if dropout_p and seed is None:
        seed = int(torch.randint(2**62, ()))
    if cu_seqlens_q is not None and cu_seqlens_k is None:
        cu_seqlens_k = cu_seqlens_q
    out, lse = torch.ops.fusedlm.attention(
        query,
        key,
        value,
        causal,
        window or 0,
        query.shape[3] ** -0.5 if scale is None else float(scale),
        float(softcap),
        float(dropout_p),
        seed or 0,
        mask,
        key_padding_mask,
        alibi_slopes,
        _int32(cu_seqlens_q),
        _int32(cu_seqlens_k),
        _int32(kv_lengths),
    )
    return (out, lse) if return_lse else out


def _int32(t: Tensor | None) -> Tensor | None:
    return t if t is None or t.dtype == torch.int32 else t.to(torch.int32)


def _mask_for(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    if mask.requires_grad:
        raise NotImplementedError("attention: mask requires a gradient, which is not supported")
    shape = (query.shape[0], query.shape[2], query.shape[1], key.shape[1])
    try:
        return mask.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"attention: mask has shape {list(mask.shape)}, expected one that broadcasts to"
            f" [B, H, T, S] = {list(shape)}"
        ) from None
