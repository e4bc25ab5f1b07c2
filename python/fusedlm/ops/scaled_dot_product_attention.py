"""Attention with torch's own signature and layout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import attention, takes_width


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` on `ops.attention`.

    query [..., H, T, D], key [..., G, S, D], value [..., G, S, E], float32, bfloat16 or float16;
    leading dimensions broadcast, and so do heads of which there is one. With enable_gqa G divides H.
    is_causal lets query t see keys 0 to t (aligned at the top left, unlike `ops.attention`).
    attn_mask broadcasts to [..., H, T, S]: boolean (True keeps) or floating (added). A query that
    sees no key gives zeros.

    Other dtypes, a mask that needs a gradient, dropout_p 1 and on a GPU heads wider than 256 go to
    torch's own function.
    Raises ValueError naming the argument that does not fit.
    """
    if not _has_kernel(query, key, value, attn_mask, dropout_p):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    lead = _check(query, key, value, attn_mask, is_causal, enable_gqa)
    (*_, H, T, D), S, E = query.shape, key.shape[-2], value.shape[-1]
    if not enable_gqa:  # one head goes with any number
        H = max(H, key.shape[-3])
    query, key, value = (t.expand(*lead, -1, -1, -1) for t in (query, key, value))
    if query.shape[-3] != H:
        query = query.expand(*lead, H, -1, -1)
    if value.shape[-3] != key.shape[-3]:
        heads = max(key.shape[-3], value.shape[-3])
        key, value = (t.expand(*lead, heads, -1, -1) for t in (key, value))
    if scale is None:
        scale = max(D, 1) ** -0.5
    if E != D:  # zeros change neither scores nor the rest of the values
        query, key = (F.pad(t, (0, max(0, E - D))) for t in (query, key))
        value = F.pad(value, (0, max(0, D - E)))
    if is_causal and T < S:  # then the last query stands on the last key
        key, value = (t[..., :T, :] for t in (key, value))
    elif is_causal and T > S:
        attn_mask = torch.ones(T, S, dtype=torch.bool, device=query.device).tril()
        is_causal = False
    if attn_mask is not None and attn_mask.dim() > 3 and len(lead) != 1:
        attn_mask = _four(attn_mask.expand(*lead, *attn_mask.shape[-3:]))
    out = attention(
        *(_four(t).transpose(1, 2) for t in (query, key, value)),
        causal=is_causal, scale=scale, mask=attn_mask, dropout_p=dropout_p,
    )  # fmt: skip
    out = out.transpose(1, 2)
    return (out[..., :E] if E < D else out).reshape(*lead, H, T, E)


def _four(t: Tensor) -> Tensor:
    """[..., H, T, D] as [B, H, T, D]; a view wherever the strides allow."""
    return t if t.dim() == 4 else t.reshape(t.shape[:-3].numel(), *t.shape[-3:])


def _has_kernel(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_p: float
) -> bool:
    return (
        query.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and query.dtype == key.dtype == value.dtype
        and dropout_p < 1.0
        and not (mask is not None and mask.requires_grad and torch.is_grad_enabled())
        and min(query.dim(), key.dim(), value.dim()) >= 3
        and not (query.is_nested or key.is_nested or value.is_nested)
        and takes_width(query, max(query.shape[-1], value.shape[-1]))
    )


def _check(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool,
    enable_gqa: bool,
) -> torch.Size:  # fmt: skip
    """The leading dimensions of the result."""
    if mask is not None and is_causal:
        raise ValueError("scaled_dot_product_attention: attn_mask is given along with is_causal")
    shapes = f"query {list(query.shape)}, key {list(key.shape)} and value {list(value.shape)}"
    heads = [t.shape[-3] for t in (query, key, value)]
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise ValueError(
            f"scaled_dot_product_attention: {shapes} do not go together, expected [..., H, T, D],"
            " [..., G, S, D] and [..., G, S, E]"
        )
    if enable_gqa:
        if heads[1] != heads[2] or heads[1] == 0 or heads[0] % heads[1]:
            raise ValueError(
                f"scaled_dot_product_attention: {shapes} have {heads} heads; with enable_gqa those of"
                " key and value are the same number, a divisor of query's"
            )
    elif any(h not in (1, max(heads)) for h in heads):
        raise ValueError(
            f"scaled_dot_product_attention: {shapes} have {heads} heads, expected the same number"
            " (or enable_gqa=True)"
        )
    try:
        lead: torch.Size = torch.broadcast_shapes(*(t.shape[:-3] for t in (query, key, value)))
    except RuntimeError:
        raise ValueError(
            f"scaled_dot_product_attention: leading dimensions of {shapes} do not broadcast"
        ) from None
    return lead
