"""The interface of flash-attn (its flash_attn_interface.py, version 2), on every device of ours.

What differs: float16 on the CPU is computed in float32; `deterministic` is always so; where
`return_attn_probs` asks for probabilities, which never exist here, None stands in their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fusedlm import ops

NO_WINDOW = (-1, -1)
# out, or with return_attn_probs (out, lse, None).
Result: TypeAlias = Tensor | tuple[Tensor, Tensor, None]


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = NO_WINDOW,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """Attention of q [B, T, H, D] over k and v [B, S, G, D]; query head h reads head h // (H / G).

    Query i stands at i + S - T: causal keeps keys up to there (aligned at the bottom right), and
    window_size (left, right) keys from `left` before to `right` behind, -1 meaning all. A query that
    sees no key gives zeros. softcap c > 0: score = c tanh(score / c). alibi_slopes [H] or [B, H]
    float32: -slope * distance is added. dropout_p must be 0 in evaluation.

    A window that is unequal on its two sides and not causal makes a mask [T, S]; slopes that differ
    along B make a call for each row. Returns out [B, T, H, D], or with return_attn_probs (out, lse
    [B, H, T] float32, None). Raises ValueError naming the argument that does not fit.
    """
    out, lse = _windowed(
        q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes
    )
    return (out, lse, None) if return_attn_probs else out


def _windowed(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float, scale: float | None, causal: bool,
    window_size: tuple[int, int], softcap: float, alibi_slopes: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out and lse of `flash_attn_func`."""
    causal, window, mask = window_or_mask(causal, window_size, q.shape[1], k.shape[1], q.device)
    return attend(
        q, k, v, alibi_slopes,
        causal=causal, window=window, mask=mask, scale=scale, softcap=softcap, dropout_p=dropout_p,
    )  # fmt: skip


def flash_attn_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = NO_WINDOW,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """`flash_attn_func` with keys and values in one tensor kv [B, S, 2, G, D]."""
    k, v = _unpack("kv", kv, 2, 5)
    return flash_attn_func(
        q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic,
        return_attn_probs,
    )  # fmt: skip


def flash_attn_qkvpacked_func(
    qkv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = NO_WINDOW,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """`flash_attn_func` with all three in one tensor qkv [B, T, 3, H, D]."""
    q, k, v = _unpack("qkv", qkv, 3, 5)
    return flash_attn_func(
        q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic,
        return_attn_probs,
    )  # fmt: skip


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = NO_WINDOW,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
) -> Result:
    """Sequences one behind the other: q [total_q, H, D], k and v [total_k, G, D].

    cu_seqlens_q, cu_seqlens_k [n + 1] int32: sequence i owns tokens cu[i] to cu[i + 1], and none sees
    another. max_seqlen_q and max_seqlen_k are not needed. With block_table [n, pages] int32, k and v
    are pages [pages in all, page size, G, D], and the keys of each sequence are gathered first.

    The other arguments are those of `flash_attn_func`; alibi_slopes [n, H] and a window that is
    unequal and not causal make a call for each sequence. Those calls and the gathered keys need lengths on
    the host, which waits for the GPU to have them. Returns out [total_q, H, D], or with
    return_attn_probs (out, lse [H, total_q], None).
    """
    if q.dim() != 3 or k.dim() != (3 if block_table is None else 4):
        raise ValueError(
            f"flash_attn_varlen: q has shape {list(q.shape)} and k {list(k.shape)}, expected"
            " [total_q, H, D] and [total_k, G, D] (with block_table [pages, page size, G, D])"
        )
    if block_table is not None:
        k, v = (_gather(pages, block_table, cu_seqlens_k) for pages in (k, v))
    kept, window, mask = window_or_mask(causal, window_size, 1, 1, q.device)
    sequences = cu_seqlens_q.numel() - 1
    for_each = alibi_slopes is not None and alibi_slopes.dim() == 2
    if alibi_slopes is not None and for_each:
        _check_slopes(alibi_slopes, sequences)
        alibi_slopes = alibi_slopes if sequences else None
    if (mask is not None or for_each) and sequences > 0:
        parts = [
            _windowed(
                *tokens, dropout_p, softmax_scale, causal, window_size, softcap,
                alibi_slopes if alibi_slopes is None or alibi_slopes.dim() == 1 else alibi_slopes[i],
            )
            for i, tokens in enumerate(_sequences(q, k, v, cu_seqlens_q, cu_seqlens_k))
        ]  # fmt: skip
        out, lse = (torch.cat([p[j] for p in parts], 1 + j) for j in range(2))
    else:
        out, lse = attend(
            q[None], k[None], v[None], alibi_slopes,
            causal=kept, window=window, scale=softmax_scale, softcap=softcap, dropout_p=dropout_p,
            cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k,
        )  # fmt: skip
    out, lse = out[0], lse[0]
    return (out, lse, None) if return_attn_probs else out


def flash_attn_varlen_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = NO_WINDOW,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """`flash_attn_varlen_func` with keys and values in one tensor kv [total_k, 2, G, D]."""
    k, v = _unpack("kv", kv, 2, 4)
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale,
        causal, window_size, softcap, alibi_slopes, deterministic, return_attn_probs,
    )  # fmt: skip


def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = NO_WINDOW,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """`flash_attn_varlen_func` with all three in one tensor qkv [total, 3, H, D]."""
    q, k, v = _unpack("qkv", qkv, 3, 4)
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, dropout_p, softmax_scale, causal,
        window_size, softcap, alibi_slopes, deterministic, return_attn_probs,
    )  # fmt: skip


def attend(
    q: Tensor, k: Tensor, v: Tensor, alibi_slopes: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor]:
    """`ops.attention` with its lse; slopes [H] or [B, H]."""
    if alibi_slopes is not None and alibi_slopes.dim() == 2:
        _check_slopes(alibi_slopes, q.shape[0])
        if not len(alibi_slopes):
            return attend(q, k, v, None, **options)
        rows = [attend(q[b : b + 1], k[b : b + 1], v[b : b + 1], alibi_slopes[b],
                       **{name: _row(t, b) for name, t in options.items()})
                for b in range(q.shape[0])]  # fmt: skip
        out, lse = (torch.cat(parts) for parts in zip(*rows, strict=True))
        return out, lse
    return ops.attention(q, k, v, alibi_slopes=alibi_slopes, return_lse=True, **options)


def _check_slopes(alibi_slopes: Tensor, rows: int) -> None:
    if alibi_slopes.shape[0] != rows:
        raise ValueError(
            f"flash_attn: alibi_slopes has shape {list(alibi_slopes.shape)}, expected [H] or"
            f" [{rows}, H]"
        )


def _row(option: Any, b: int) -> Any:
    """Row b of an option that is given for each row of the batch."""
    return option[b : b + 1] if isinstance(option, Tensor) and option.shape[0] > 1 else option


def window_or_mask(
    causal: bool,
    window_size: tuple[int, int],
    T: int,
    S: int,
    device: torch.device,
    positions: Tensor | None = None,
) -> tuple[bool, int | None, Tensor | None]:
    """(causal, window, mask) of `ops.attention` for flash-attn's window.

    Ours is |distance| < W, so that (W - 1, W - 1), causal (W - 1, anything) and (W - 1, 0) are exact;
    other pairs become a mask [1, 1, T, S], or [B, 1, T, S] from `positions` [B, T] of the queries.
    """
    if len(window_size) != 2:
        raise ValueError(f"flash_attn: window_size is {window_size}, expected (left, right)")
    left, right = window_size
    causal = causal or right == 0
    if causal:
        return True, left + 1 if left >= 0 else None, None
    if left < 0 and right < 0:
        return False, None, None
    if left == right:
        return False, left + 1, None
    if positions is None:
        positions = torch.arange(S - T, S, device=device)[None]
    distance = positions[..., None] - torch.arange(S, device=device)
    mask = torch.ones_like(distance, dtype=torch.bool)
    if left >= 0:
        mask &= distance <= left
    if right >= 0:
        mask &= distance >= -right
    return False, None, mask[:, None]


def _unpack(name: str, packed: Tensor, parts: int, dims: int) -> tuple[Tensor, ...]:
    if packed.dim() != dims or packed.shape[-3] != parts:
        tokens = "[B, T" if dims == 5 else "[total"
        raise ValueError(
            f"flash_attn: {name} has shape {list(packed.shape)}, expected {tokens}, {parts}, H, D]"
        )
    return packed.unbind(-3)


def _sequences(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(q, k, v) of each sequence, as a batch of one."""
    ends_q, ends_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    if len(ends_q) != len(ends_k):
        raise ValueError(
            f"flash_attn_varlen: cu_seqlens_k has {len(ends_k)} elements, expected {len(ends_q)} as"
            " cu_seqlens_q"
        )
    for i in range(len(ends_q) - 1):
        queries, keys = slice(*ends_q[i : i + 2]), slice(*ends_k[i : i + 2])
        yield q[None, queries], k[None, keys], v[None, keys]


def _gather(pages: Tensor, block_table: Tensor, cu_seqlens: Tensor) -> Tensor:
    """The tokens of each sequence from its pages, end to end: [total, G, D]."""
    lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).tolist()
    rows = pages[block_table.long()].flatten(1, 2)
    if len(lengths) != rows.shape[0] or max(lengths, default=0) > rows.shape[1]:
        raise ValueError(
            f"flash_attn_varlen: block_table has shape {list(block_table.shape)} of pages of"
            f" {pages.shape[1]}, too few for the sequences of cu_seqlens_k, {lengths}"
        )
    if not lengths:
        return rows.flatten(0, 1)  # of none
    return torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)])
