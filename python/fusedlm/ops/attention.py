"""Flash attention (Dao 2023, arXiv:2307.08691): softmax(query key^T) value without the scores in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor

from fusedlm import _rules

from ._support import Context, core, define, dense_last, empty, on_gpu, same_autocast_dtype

_OPTIONS = (
    "bool causal, int window, float scale, float softcap, float dropout_p, SymInt seed, Tensor? mask,"
    " Tensor? key_padding_mask, Tensor? alibi_slopes, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k,"
    " Tensor? kv_lengths, Tensor? block_table"
)


class PackedAttentionOptions(TypedDict, total=False):
    """What `attention` and `attention_qkv` both take."""

    causal: bool
    window: int | None
    scale: float | None
    mask: Tensor | None
    key_padding_mask: Tensor | None
    alibi_slopes: Tensor | None
    softcap: float
    dropout_p: float
    seed: int | None


class AttentionOptions(PackedAttentionOptions, total=False):
    """What `attention` takes beside query, key and value."""

    cu_seqlens_q: Tensor | None
    cu_seqlens_k: Tensor | None
    kv_lengths: Tensor | None
    block_table: Tensor | None


WIDEST_ON_GPU = 256  # of heads: the CUDA kernels hold their rows in registers


def takes_width(x: Tensor, D: int) -> bool:
    """Whether there is a kernel for heads of width D where x is."""
    return D <= WIDEST_ON_GPU or not on_gpu(x)


def _dense(options: Sequence[Any]) -> tuple[Any, ...]:
    """The options with small tensors dense; the mask keeps its strides of 0. The caller holds them:
    what the kernel gets are bare pointers."""
    scalars, mask, rest = options[:6], options[6], options[7:]
    return *scalars, mask, *(None if t is None else t.contiguous() for t in rest)


def _core_options(
    causal: bool, window: int, scale: float, softcap: float, dropout_p: float, seed: int,
    *tensors: Tensor | None,
) -> Any:  # fmt: skip
    return core.AttentionOptions(causal, window, scale, softcap, dropout_p, seed % 2**64, *tensors)


def _forward(query: Tensor, key: Tensor, value: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    out = empty(query.shape, query.dtype, query)
    lse = empty((query.shape[0], query.shape[2], query.shape[1]), torch.float32, query)
    options = _dense(options)
    if options[9] is not None:  # tokens of no sequence
        out.zero_()
        lse.fill_(float("inf"))
    core.attention_forward(
        dense_last(query), dense_last(key), dense_last(value), out, lse, _core_options(*options)
    )
    return out, lse


def _forward_fake(
    query: Tensor, key: Tensor, value: Tensor, *options: Any
) -> tuple[Tensor, Tensor]:
    lse_shape = (query.shape[0], query.shape[2], query.shape[1])
    return query.new_empty(query.shape), query.new_empty(lse_shape, dtype=torch.float32)


def _backward(
    dout: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, *options: Any
) -> tuple[Tensor, ...]:
    make = _maker(options)
    grads = tuple(make(t.shape, t.dtype, t) for t in (query, key, value))
    _gradients_into(grads, dout, query, key, value, out, lse, options)
    return grads


def _maker(options: Sequence[Any]) -> Callable[[Sequence[int], torch.dtype, Tensor], Tensor]:
    # Rows that no sequence owns are not written.
    return empty if options[9] is None and options[11] is None else _zeros


def _zeros(shape: Sequence[int], dtype: torch.dtype, like: Tensor) -> Tensor:
    return empty(shape, dtype, like).zero_()


def _gradients_into(
    grads: Sequence[Tensor], dout: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor,
    lse: Tensor, options: Sequence[Any],
) -> None:  # fmt: skip
    options = _dense(options)
    core.attention_backward(
        dense_last(dout),
        dense_last(query),
        dense_last(key),
        dense_last(value),
        dense_last(out),
        lse,
        *grads,
        _core_options(*options),
    )


def _backward_fake(
    dout: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, *options: Any
) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in (query, key, value))


def _setup_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, *options = inputs
    out, lse = output
    ctx.scalars = options[:6]
    ctx.save_for_backward(query, key, value, out, lse, *options[6:])
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(lse)


def _autograd(ctx: Context, dout: Tensor | None, _dlse: None) -> tuple[Tensor | None, ...]:
    if dout is None:
        return (None,) * 16
    query, key, value, out, lse, *tensors = ctx.saved_tensors
    grads = torch.ops.fusedlm.attention_backward(
        dout, query, key, value, out, lse, *ctx.scalars, *tensors
    )
    return *grads, *(None,) * 13


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


def _parts(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of query, key and value in qkv [B, T, H + 2 G, D]."""
    kv_heads = (qkv.shape[2] - heads) // 2
    query, key, value = qkv.split((heads, kv_heads, kv_heads), dim=2)
    return query, key, value


def _packed_forward(qkv: Tensor, heads: int, *options: Any) -> tuple[Tensor, Tensor]:
    return _forward(*_parts(qkv, heads), *options)


def _packed_forward_fake(qkv: Tensor, heads: int, *options: Any) -> tuple[Tensor, Tensor]:
    return _forward_fake(*_parts(qkv, heads), *options)


def _packed_backward(
    dout: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, heads: int, *options: Any
) -> Tensor:
    dqkv = _maker(options)(qkv.shape, qkv.dtype, qkv)
    _gradients_into(_parts(dqkv, heads), dout, *_parts(qkv, heads), out, lse, options)
    return dqkv


def _packed_setup_context(
    ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]
) -> None:
    qkv, heads, *options = inputs
    out, lse = output
    ctx.scalars = (heads, *options[:6])
    ctx.save_for_backward(qkv, out, lse, *options[6:])
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(lse)


def _packed_autograd(ctx: Context, dout: Tensor | None, _dlse: None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 14
    if dout is None:
        return None, *nothing
    qkv, out, lse, *tensors = ctx.saved_tensors
    dqkv = torch.ops.fusedlm.attention_qkv_backward(dout, qkv, out, lse, *ctx.scalars, *tensors)
    return dqkv, *nothing


define(
    f"attention_qkv(Tensor qkv, int heads, {_OPTIONS}) -> (Tensor, Tensor)",
    _packed_forward,
    _packed_forward_fake,
    setup_context=_packed_setup_context,
    backward=_packed_autograd,
)
define(
    "attention_qkv_backward(Tensor dout, Tensor qkv, Tensor out, Tensor lse, int heads,"
    f" {_OPTIONS}) -> Tensor",
    _packed_backward,
    lambda dout, qkv, *_: qkv.new_empty(qkv.shape),
)


@overload
def attention(
    query: Tensor, key: Tensor, value: Tensor, *, return_lse: Literal[False] = False,
    **options: Unpack[AttentionOptions],
) -> Tensor: ...  # fmt: skip
@overload
def attention(
    query: Tensor, key: Tensor, value: Tensor, *, return_lse: Literal[True],
    **options: Unpack[AttentionOptions],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
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
    block_table: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(scale * query key^T + bias) value: query [B, T, H, D], key and value [B, S, G, D].

    float32, bfloat16 or float16, the same for all three; G divides H, and query head h reads key-value head
    h // (H / G). The last query stands on the last key: query t is at distance (t + S - T) - j of
    key j, where S is kv_lengths[b] if given. A query that sees no key gives zeros.

    causal keeps distances >= 0 and `window` W those below W either way. scale defaults to D^-0.5.
    mask broadcasts to [B, H, T, S]: boolean (True keeps) or floating (added); it gets no gradient.
    key_padding_mask [B, S] bool, True keeps. alibi_slopes [H]: -slope * |distance| is added.
    softcap c: score = c tanh(score / c). dropout_p drops weights by a counter-based generator;
    seed None draws one from torch's generator. cu_seqlens_q, cu_seqlens_k [n + 1] int32 (the
    second defaults to the first): n sequences packed along T with B = 1, none sees another.
    kv_lengths [B] int32: how many keys of each row count. block_table [B, n] int32, with kv_lengths and
    without gradients: key and value are pages [pages, page, G, D] of a cache (bfloat16 ones go with a
    float32 query, too), and key j of row b is row j % page of page block_table[b, j // page].

    Returns out [B, T, H, D]; with return_lse also the log-sum-exp of the scores [B, H, T] float32.
    Raises ValueError naming the argument that does not fit, and on a GPU NotImplementedError for D > 256.
    Nobody looks at the values of cu_seqlens, kv_lengths and block_table there, since that would mean
    waiting: wrong ones are cut to what the tensors hold, and give wrong rows without an error.
    """
    query, key, value = same_autocast_dtype(query, key, value)
    options = _checked(
        query, key, causal, window, scale, mask, key_padding_mask, alibi_slopes, softcap, dropout_p,
        seed, cu_seqlens_q, cu_seqlens_k, kv_lengths, block_table,
    )  # fmt: skip
    out, lse = torch.ops.fusedlm.attention(query, key, value, *options)
    return (out, lse) if return_lse else out


@overload
def attention_qkv(
    qkv: Tensor, heads: int, *, cu_seqlens: Tensor | None = None,
    return_lse: Literal[False] = False, **options: Unpack[PackedAttentionOptions],
) -> Tensor: ...  # fmt: skip
@overload
def attention_qkv(
    qkv: Tensor, heads: int, *, cu_seqlens: Tensor | None = None, return_lse: Literal[True],
    **options: Unpack[PackedAttentionOptions],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
def attention_qkv(
    qkv: Tensor,
    heads: int,
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
    cu_seqlens: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Self-attention on the output of one product: `attention` of the parts of qkv [B, T, H + 2 G, D].

    The first `heads` H heads are queries, then come G of keys and G of values. The same as slicing
    and calling `attention`, but the gradient is one tensor [B, T, H + 2 G, D], written once.
    Options, result and errors are those of `attention`.
    """
    (qkv,) = same_autocast_dtype(qkv)
    if qkv.dim() != 4 or heads < 1 or qkv.shape[2] < heads + 2 or (qkv.shape[2] - heads) % 2:
        raise ValueError(
            f"attention_qkv: qkv has shape {list(qkv.shape)}, expected [B, T, H + 2 G, D] with"
            f" H = {heads}"
        )
    query, key, _ = _parts(qkv, heads)
    options = _checked(
        query, key, causal, window, scale, mask, key_padding_mask, alibi_slopes, softcap, dropout_p,
        seed, cu_seqlens, None, None, None,
    )  # fmt: skip
    out, lse = torch.ops.fusedlm.attention_qkv(qkv, heads, *options)
    return (out, lse) if return_lse else out


def _checked(
    query: Tensor, key: Tensor, causal: bool, window: int | None, scale: float | None,
    mask: Tensor | None, key_padding_mask: Tensor | None, alibi_slopes: Tensor | None,
    softcap: float, dropout_p: float, seed: int | None, cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None, kv_lengths: Tensor | None, block_table: Tensor | None,
) -> tuple[Any, ...]:  # fmt: skip
    """The options of the ops, in the order of `_OPTIONS`."""
    kernel_window = _rules.check_attention(query, key, window, dropout_p)
    if mask is not None:
        keys = key.shape[1] if block_table is None else block_table.shape[-1] * key.shape[1]
        mask = _mask_for(mask, query, keys)
    if dropout_p and seed is None:
        seed = int(torch.randint(2**62, (), device="cpu"))
    if cu_seqlens_q is not None and cu_seqlens_k is None:
        cu_seqlens_k = cu_seqlens_q
    return (
        causal,
        kernel_window,
        max(1, query.shape[3]) ** -0.5 if scale is None else float(scale),
        float(softcap),
        float(dropout_p),
        0 if seed is None else seed,
        mask,
        key_padding_mask,
        alibi_slopes,
        _int32(cu_seqlens_q),
        _int32(cu_seqlens_k),
        _int32(kv_lengths),
        _int32(block_table),
    )


def _int32(t: Tensor | None) -> Tensor | None:
    if t is None or t.dtype == torch.int32:
        return t
    # Clamped, so that what int32 cannot hold stays out of range and is refused.
    return t.clamp(-1, 2**31 - 1).to(torch.int32)


def _mask_for(mask: Tensor, query: Tensor, keys: int) -> Tensor:
    if mask.requires_grad:
        raise NotImplementedError("attention: mask requires a gradient, which is not supported")
    if mask.dtype == torch.float16:  # the kernels add float32 and bfloat16
        mask = mask.float()
    return mask.expand(_rules.check_mask(mask, query, keys))
