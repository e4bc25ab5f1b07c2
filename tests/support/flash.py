"""What flash-attn documents about its functions, in plain torch."""

from __future__ import annotations

import torch


def plain(
    q, k, v, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None
):
    """out [B, T, H, D] and lse [B, H, T] as flash-attn documents them."""
    (B, T, H, D), S, G = q.shape, k.shape[1], k.shape[2]
    k, v = (t.repeat_interleave(H // G, dim=2) for t in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) * (
        D**-0.5 if softmax_scale is None else softmax_scale
    )
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    i, j = torch.arange(T)[:, None], torch.arange(S)[None]
    if alibi_slopes is not None:
        slopes = alibi_slopes.expand(B, H)[:, :, None, None].to(scores.dtype)
        scores = scores - slopes * (i + S - T - j).abs()
    left, right = window_size
    keep = torch.ones(T, S, dtype=torch.bool)
    if causal:
        right = 0
    if left >= 0:
        keep &= j >= i + S - T - left
    if right >= 0:
        keep &= j <= i + S - T + right
    seen = keep.any(-1)
    scores = scores.masked_fill(~(keep | ~seen[:, None]), float("-inf"))
    lse = torch.logsumexp(scores.to(torch.promote_types(scores.dtype, torch.float32)), -1)
    weights = torch.softmax(scores, -1) * seen[:, None]
    return torch.einsum("bhts,bshd->bthd", weights, v), lse.masked_fill(~seen, float("inf"))
