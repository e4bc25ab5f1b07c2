"""flash-attn's attention on a cache that it also fills."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from fusedlm import ops

from .flash_attention import NO_WINDOW, attend, window_or_mask


@torch.no_grad()
def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = NO_WINDOW,
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of q [B, T, H, D] over a cache, to which k and v [B, new, G, D] are appended in place.

    k_cache, v_cache [rows, S, G, D], or with block_table [B, pages] int32 pages [pages in all, page
    size, G, D]. Row b of the batch owns row cache_batch_idx[b] of the cache (default: b), which holds
    cache_seqlens[b] tokens (one number for all; default S, all of it), the first cache_leftpad[b] of
    them padding. Query i stands at i + (tokens in the cache, new ones too) - T, as in `flash_attn_func`,
    which explains the other arguments.

    rotary_cos, rotary_sin [positions, R / 2] turn k at its positions before it is stored, and q at
    the same ones if causal or with a window, otherwise all of q at the first of them; pairs are (2i, 2i + 1) if
    rotary_interleaved, else (i, i + R / 2). num_splits is not needed. There is no backward.

    Returns out [B, T, H, D]; with return_softmax_lse also lse [B, H, T] float32.
    Raises ValueError naming the argument that does not fit; then nothing is stored. On a GPU nobody looks
    at the values of cache_seqlens, cache_batch_idx and block_table, since that would mean waiting for it:
    places outside of the cache make torch's indexing fail there.
    """
    if q.dim() != 4 or k_cache.dim() != 4:
        raise ValueError(
            f"flash_attn_with_kvcache: q has shape {list(q.shape)} and k_cache"
            f" {list(k_cache.shape)}, expected [B, T, H, D] and [rows, S, G, D]"
        )
    B, T = q.shape[:2]
    if block_table is not None and (block_table.dim() != 2 or block_table.shape[0] != B):
        raise ValueError(
            f"flash_attn_with_kvcache: block_table has shape {list(block_table.shape)}, expected"
            f" [{B}, pages] as q"
        )
    capacity = k_cache.shape[1] * (1 if block_table is None else block_table.shape[1])
    lengths = _lengths(cache_seqlens, B, capacity, q.device)
    pad = torch.zeros_like(lengths) if cache_leftpad is None else cache_leftpad.long()
    new = 0 if k is None else k.shape[1]
    _check(
        q, k_cache, v_cache, k, v, cache_seqlens, lengths, new, capacity, rotary_cos, rotary_sin,
        cache_batch_idx, block_table,
    )  # fmt: skip
    if rotary_cos is not None and rotary_sin is not None and k is not None:
        first = (lengths - pad)[:, None]
        steps = torch.arange(max(T, new), device=q.device)
        local = causal or tuple(window_size) != NO_WINDOW
        at_queries = first + (steps[:T] if local else torch.zeros_like(steps[:T]))
        cos, sin = rotary_cos.float(), rotary_sin.float()
        q, k = (
            ops.rope(x, cos, sin, positions=at, interleaved=rotary_interleaved)
            for x, at in ((q, at_queries), (k, first + steps[:new]))
        )
    before = None
    if k is not None and v is not None and new:
        places = _places(k_cache, lengths, new, cache_batch_idx, block_table)
        before = k_cache[places], v_cache[places]
        k_cache[places], v_cache[places] = k.to(k_cache.dtype), v.to(v_cache.dtype)
        lengths = lengths + new
    try:
        keys, values = (_rows(t, cache_batch_idx, block_table) for t in (k_cache, v_cache))
        S = keys.shape[1]
        positions = lengths[:, None] - T + torch.arange(T, device=q.device)
        causal, window, mask = window_or_mask(causal, window_size, T, S, q.device, positions)
        behind_pad = None
        if cache_leftpad is not None:
            behind_pad = torch.arange(S, device=q.device) >= pad[:, None]
        out, lse = attend(
            q, keys, values, alibi_slopes,
            causal=causal, window=window, mask=mask, scale=softmax_scale, softcap=softcap,
            key_padding_mask=behind_pad, kv_lengths=lengths,
        )  # fmt: skip
    except Exception:
        if before is not None:
            k_cache[places], v_cache[places] = before
        raise
    return (out, lse) if return_softmax_lse else out


def _lengths(
    cache_seqlens: int | Tensor | None, B: int, capacity: int, device: torch.device
) -> Tensor:
    if cache_seqlens is None or isinstance(cache_seqlens, int):
        length = capacity if cache_seqlens is None else cache_seqlens
        return torch.full((B,), length, dtype=torch.int64, device=device)
    if cache_seqlens.shape != (B,):
        raise ValueError(
            f"flash_attn_with_kvcache: cache_seqlens has shape {list(cache_seqlens.shape)}, expected"
            f" [{B}] as q"
        )
    return cache_seqlens.long()


def _check(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor | None, v: Tensor | None,
    cache_seqlens: int | Tensor | None, lengths: Tensor, new: int, capacity: int,
    rotary_cos: Tensor | None, rotary_sin: Tensor | None, cache_batch_idx: Tensor | None,
    block_table: Tensor | None,
) -> None:  # fmt: skip
    def fail(message: str) -> NoReturn:
        raise ValueError(f"flash_attn_with_kvcache: {message}")

    if v_cache.shape != k_cache.shape:
        fail(f"v_cache has shape {list(v_cache.shape)}, expected {list(k_cache.shape)} as k_cache")
    if (k is None) != (v is None):
        fail("k and v belong together, but only one is given")
    if k is None and rotary_cos is not None:
        fail("rotary_cos is given without k, whose positions it is for")
    if (rotary_cos is None) != (rotary_sin is None):
        fail("rotary_cos and rotary_sin belong together, but only one is given")
    if k is not None and k.shape != (q.shape[0], new, *k_cache.shape[2:]):
        fail(f"k has shape {list(k.shape)}, expected [B, new, G, D] as q and k_cache")
    if k is not None and v is not None and v.shape != k.shape:
        fail(f"v has shape {list(v.shape)}, expected {list(k.shape)} as k")
    if block_table is not None and cache_batch_idx is not None:
        fail("cache_batch_idx is given along with block_table")
    if block_table is None and cache_batch_idx is None and k_cache.shape[0] != q.shape[0]:
        fail(f"k_cache has {k_cache.shape[0]} rows, expected {q.shape[0]} as q, or cache_batch_idx")
    if cache_batch_idx is not None and cache_batch_idx.shape != lengths.shape:
        fail(f"cache_batch_idx has shape {list(cache_batch_idx.shape)}, expected [B] as q")
    if torch.compiler.is_compiling() or not lengths.numel():
        return
    for name, index in (("cache_batch_idx", cache_batch_idx), ("block_table", block_table)):
        if index is None or not index.is_cpu or not index.numel():
            continue
        least, most = int(index.min()), int(index.max())
        if least < 0 or most >= k_cache.shape[0]:
            fail(f"{name} holds {least} to {most}, expected 0 to {k_cache.shape[0] - 1} as k_cache")
    if not isinstance(cache_seqlens, Tensor):
        length = capacity if cache_seqlens is None else cache_seqlens
        given = [length] * q.shape[0]
    elif cache_seqlens.is_cpu:
        given = cache_seqlens.tolist()
    else:
        return
    if max(given) + new > capacity or min(given) < 0:
        fail(f"cache_seqlens is {given} and {new} are new, expected 0 to {capacity} in all")


def _places(
    cache: Tensor, lengths: Tensor, new: int, cache_batch_idx: Tensor | None,
    block_table: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Row (or page) and place in it of every new token, [B, new] each."""
    at = lengths[:, None] + torch.arange(new, device=lengths.device)
    if block_table is None:
        row = cache_batch_idx
        if row is None:
            row = torch.arange(len(lengths), device=lengths.device)
        return row.long()[:, None].expand_as(at), at
    page_size = cache.shape[1]
    return block_table.long().gather(1, at // page_size), at % page_size


def _rows(cache: Tensor, cache_batch_idx: Tensor | None, block_table: Tensor | None) -> Tensor:
    """[B, S, G, D], a row for each of the batch; a copy unless the cache is just so."""
    if block_table is not None:
        return cache[block_table.long()].flatten(1, 2)
    return cache if cache_batch_idx is None else cache[cache_batch_idx.long()]
