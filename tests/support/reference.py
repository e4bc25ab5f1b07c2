"""Plain torch twins of every function of `fusedlm.ops`, written for clarity, not for speed.

They take the same arguments, work in any float dtype (float64 is the yardstick of the tests) and
are differentiable by autograd. Half-precision inputs are computed in their own dtype where torch
would do so (matrix products) and in float32 where torch would (norms, softmax, loss).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = {
    None: lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}
GATES = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_tanh"}


def _wide(x: Tensor) -> Tensor:
    """Statistics of half-precision values are taken in float32."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _like(weight: Tensor | None, x: Tensor) -> Tensor | None:
    return None if weight is None else weight.to(x.dtype)


def embedding(
    tokens: Tensor,
    weight: Tensor,
    *,
    position_weight: Tensor | None = None,
    positions: Tensor | None = None,
    padding_idx: int | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    out = F.embedding(tokens, weight, padding_idx=padding_idx)
    if position_weight is not None:
        if positions is None:
            positions = torch.arange(tokens.shape[-1], device=tokens.device)
        out = out + F.embedding(positions, position_weight)
    return out.to(dtype or weight.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6, *, residual: Tensor | None = None):
    total = x if residual is None else x + residual
    wide = _wide(total)
    y = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight.to(wide.dtype)
    y = y.to(x.dtype)
    return y if residual is None else (y, total)


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
):
    total = x if residual is None else x + residual
    wide = _wide(total)
    y = F.layer_norm(wide, wide.shape[-1:], _like(weight, wide), _like(bias, wide), eps)
    y = y.to(x.dtype)
    return y if residual is None else (y, total)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    wide = _wide(x)
    if weight is None:  # torch's own backward fails for a bias alone
        weight = torch.ones(x.shape[1], device=x.device)
    return F.group_norm(wide, groups, _like(weight, wide), _like(bias, wide), eps).to(x.dtype)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    y = ACTIVATIONS[activation](F.linear(x, _like(weight, x), _like(bias, x)))
    return y if residual is None else y + residual


def ffn(
    x: Tensor,
    up_weight: Tensor,
    down_weight: Tensor,
    *,
    gate_weight: Tensor | None = None,
    up_bias: Tensor | None = None,
    gate_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    activation: str = "gelu",
    residual: Tensor | None = None,
) -> Tensor:
    if activation in GATES:
        gate = linear(x, gate_weight, gate_bias, activation=GATES[activation])
        hidden = gate * linear(x, up_weight, up_bias)
    else:
        hidden = linear(x, up_weight, up_bias, activation=activation)
    return linear(hidden, down_weight, down_bias, residual=residual)


def rope_tables(
    length: int, dim: int, base: float = 10000.0, *, scaling: dict | None = None
) -> tuple[Tensor, Tensor]:
    inverse = 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    kind = None if scaling is None else scaling.get("rope_type", scaling.get("type"))
    if kind == "linear":
        inverse = inverse / scaling["factor"]
    elif kind == "llama3":
        factor, trained = scaling["factor"], scaling["original_max_position_embeddings"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        wavelength = 2 * math.pi / inverse
        smooth = ((trained / wavelength - low) / (high - low)).clamp(0, 1)
        inverse = (1 - smooth) * inverse / factor + smooth * inverse
    elif kind not in (None, "default"):
        raise ValueError(f"rope_tables: scaling has rope_type {kind!r}, expected linear or llama3")
    angles = torch.outer(torch.arange(length, dtype=torch.float64), inverse)
    return angles.cos().float(), angles.sin().float()


def rope(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    positions: Tensor | None = None,
    interleaved: bool = False,
) -> Tensor:
    B, T, _, _ = x.shape
    half = cos.shape[-1]
    if positions is None:
        positions = torch.arange(T, device=x.device)
    positions = positions.expand(B, T)
    rotated, rest = _wide(x[..., : 2 * half]), x[..., 2 * half :]
    c = cos.to(rotated.dtype)[positions][:, :, None]  # [B, T, 1, R/2]
    s = sin.to(rotated.dtype)[positions][:, :, None]
    if interleaved:
        a, b = rotated[..., 0::2], rotated[..., 1::2]
        turned = torch.stack([a * c - b * s, b * c + a * s], dim=-1).flatten(-2)
    else:
        a, b = rotated.chunk(2, dim=-1)
        turned = torch.cat([a * c - b * s, b * c + a * s], dim=-1)
    return torch.cat([turned.to(x.dtype), rest], dim=-1)


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
) -> Tensor:
    """`window` W keeps keys at a distance below W; a query that sees no key gives zeros."""
    if cu_seqlens_q is not None:
        ends_q = cu_seqlens_q.tolist()
        ends_k = ends_q if cu_seqlens_k is None else cu_seqlens_k.tolist()
        parts = [
            attention(
                query[:, q0:q1], key[:, k0:k1], value[:, k0:k1],
                causal=causal, window=window, scale=scale, alibi_slopes=alibi_slopes,
                softcap=softcap, dropout_p=dropout_p, seed=seed,
            )
            for q0, q1, k0, k1 in zip(ends_q, ends_q[1:], ends_k, ends_k[1:], strict=False)
        ]  # fmt: skip
        return torch.cat(parts, dim=1)
    B, T, H, D = query.shape
    S, G = key.shape[1], key.shape[2]
    q, k, v = (t.transpose(1, 2) for t in (query, key, value))
    k, v = (t.repeat_interleave(H // G, dim=1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) * (D**-0.5 if scale is None else scale)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)

    lengths = torch.full((B,), S, device=query.device) if kv_lengths is None else kv_lengths
    lengths = lengths.long()[:, None, None]
    key_index = torch.arange(S, device=query.device)
    query_index = torch.arange(T, device=query.device)[None, :, None] + lengths - T
    distance = query_index - key_index  # [B, T, S], 0 on the diagonal
    if alibi_slopes is not None:
        scores = scores - alibi_slopes.to(scores.dtype)[:, None, None] * distance.abs()[:, None]
    keep = (key_index < lengths).expand(B, T, S)
    if causal:
        keep = keep & (distance >= 0)
    if window is not None:
        keep = keep & (distance.abs() < window)
    if key_padding_mask is not None:
        keep = keep & key_padding_mask[:, None, :]
    keep = keep[:, None].expand(B, H, T, S)
    if mask is not None and mask.dtype == torch.bool:
        keep = keep & mask
    elif mask is not None:
        keep = keep & (mask > float("-inf"))
        scores = scores + mask.to(scores.dtype).masked_fill(mask == float("-inf"), 0.0)

    seen = keep.any(-1, keepdim=True)
    scores = scores.masked_fill(~keep & seen, float("-inf"))
    weights = torch.softmax(scores, dim=-1).masked_fill(~seen, 0.0)
    if dropout_p:
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        kept = torch.rand(weights.shape, generator=generator).to(weights.device) >= dropout_p
        weights = weights * kept / (1 - dropout_p)
    return (weights @ v).transpose(1, 2).to(query.dtype)


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float = 0.0,
    class_weight: Tensor | None = None,
) -> Tensor:
    """Cross-entropy as in torch, plus z_loss * logsumexp^2 for each kept row (class-weighted)."""
    logits = _wide(F.linear(x, _like(weight, x), _like(bias, x))).flatten(0, -2)
    loss = cross_entropy(
        logits, targets.flatten(), class_weight=class_weight, ignore_index=ignore_index,
        reduction=reduction, label_smoothing=label_smoothing, z_loss=z_loss, softcap=softcap,
    )  # fmt: skip
    return loss.view(targets.shape) if reduction == "none" else loss


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    class_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float = 0.0,
) -> Tensor:
    """The loss of logits [N, V] in their own dtype, as torch computes it."""
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    per_class = _like(class_weight, logits)
    loss = F.cross_entropy(
        logits, targets, weight=per_class, ignore_index=ignore_index, reduction="none",
        label_smoothing=label_smoothing,
    )  # fmt: skip
    kept = targets != ignore_index
    row_weight = kept.to(logits.dtype)
    if per_class is not None:
        row_weight = row_weight * per_class[targets.where(kept, torch.zeros_like(targets))]
    if z_loss:
        loss = loss + z_loss * row_weight * torch.logsumexp(logits, dim=-1) ** 2
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / row_weight.sum()


class AdamW(torch.optim.AdamW):
    """torch's AdamW behind torch's clipping by the global norm, with fusedlm's arguments."""

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, max_grad_norm=None
    ):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self.max_grad_norm = max_grad_norm
        self.last_grad_norm = 0.0

    def step(self, closure=None):
        params = [p for g in self.param_groups for p in g["params"] if p.grad is not None]
        limit = math.inf if self.max_grad_norm is None else self.max_grad_norm
        self.last_grad_norm = float(torch.nn.utils.clip_grad_norm_(params, limit))
        return super().step(closure)
