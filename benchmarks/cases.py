"""What is measured: for each op the call of ours, the plain torch that it replaces, and its work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedlm import ops

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    """`op` is the function of fusedlm.ops; flops and bytes are the least that the result needs."""

    op: str
    name: str
    leaves: list[Tensor]
    ours: Run
    plain: Run
    flops: float  # forward and backward
    bytes: float  # read and written, forward and backward
    forward_flops: float = 0.0  # given where the forward alone is of interest
    others: dict[str, Run] = field(default_factory=dict)

    def forward(self, call: Run) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad():
                call()

        return run

    def both(self, call: Run) -> Callable[[], None]:
        return both_ways(call, self.leaves)


def both_ways(call: Run, leaves: list[Tensor]) -> Callable[[], None]:
    """Forward and backward with a gradient of ones, into fresh gradients of the leaves.

    They are freed within the same run: giving 154 MB back to the system takes 10 ms, which the next
    candidate must not pay.
    """
    gradient = torch.ones_like(call())

    def run() -> None:
        call().backward(gradient)
        for tensor in leaves:
            tensor.grad = None

    return run


def leaf(*shape: int, dtype: torch.dtype) -> Tensor:
    return (torch.randn(*shape) * 0.1).to(dtype).requires_grad_()


def _size(dtype: torch.dtype, *shapes: tuple[int, ...]) -> float:
    return float(dtype.itemsize * sum(torch.Size(s).numel() for s in shapes))


def embedding(dtype: torch.dtype) -> Iterator[Case]:
    tokens = torch.randint(50257, (8, 1024))
    w = leaf(50257, 768, dtype=dtype)
    moved = _size(dtype, (8192, 768)) * 3 + _size(dtype, (50257, 768))
    yield Case(
        "embedding", "embedding 8x1024 of 50257x768", [w],
        lambda: ops.embedding(tokens, w), lambda: F.embedding(tokens, w), 0.0, moved,
    )  # fmt: skip


def layer_norm(dtype: torch.dtype) -> Iterator[Case]:
    N, C = 4096, 768
    x, r = leaf(N, C, dtype=dtype), leaf(N, C, dtype=dtype)
    w, b = leaf(C, dtype=dtype), leaf(C, dtype=dtype)
    yield Case(
        "layer_norm", f"layer norm {N}x{C}", [x, w, b], lambda: ops.layer_norm(x, w, b),
        lambda: F.layer_norm(x, (C,), w, b), 16.0 * N * C, 5 * _size(dtype, (N, C)),
    )  # fmt: skip
    yield Case(
        "layer_norm", f"add + layer norm {N}x{C}", [x, r, w, b],
        lambda: ops.layer_norm(x, w, b, residual=r)[0], lambda: F.layer_norm(x + r, (C,), w, b),
        17.0 * N * C, 7 * _size(dtype, (N, C)),
    )  # fmt: skip


def rms_norm(dtype: torch.dtype) -> Iterator[Case]:
    N, C = 4096, 768
    x, w = leaf(N, C, dtype=dtype), leaf(C, dtype=dtype)
    yield Case(
        "rms_norm", f"RMSNorm {N}x{C}", [x, w], lambda: ops.rms_norm(x, w),
        lambda: F.rms_norm(x, (C,), w, 1e-6), 12.0 * N * C, 5 * _size(dtype, (N, C)),
    )  # fmt: skip


def group_norm(dtype: torch.dtype) -> Iterator[Case]:
    w, b = leaf(768, dtype=dtype), leaf(768, dtype=dtype)
    # Features of a sequence, and a group for each head of every token.
    for B, C, groups, S in ((8, 768, 32, 512), (4096, 768, 12, 1)):
        x = leaf(B, C, S, dtype=dtype)
        yield Case(
            "group_norm", f"group norm {B}x{C}x{S}, {groups} groups", [x, w, b],
            lambda x=x, groups=groups: ops.group_norm(x, groups, w, b),
            lambda x=x, groups=groups: F.group_norm(x, groups, w, b), 16.0 * x.numel(),
            5 * _size(dtype, tuple(x.shape)),
        )  # fmt: skip


def rope(dtype: torch.dtype) -> Iterator[Case]:
    x = leaf(4, 1024, 12, 64, dtype=dtype)
    cos, sin = ops.rope_tables(1024, 64)
    full_cos, full_sin = (torch.cat([t, t], -1)[:, None].to(dtype) for t in (cos, sin))

    def plain() -> Tensor:
        low, high = x.chunk(2, -1)
        return x * full_cos + torch.cat([-high, low], -1) * full_sin

    yield Case(
        "rope", "RoPE 4x1024x12x64", [x], lambda: ops.rope(x, cos, sin), plain,
        6.0 * x.numel(), 4 * _size(dtype, tuple(x.shape)),
    )  # fmt: skip


def linear(dtype: torch.dtype) -> Iterator[Case]:
    N, K, width = 1024, 768, 2304
    x, w, b = leaf(N, K, dtype=dtype), leaf(width, K, dtype=dtype), leaf(width, dtype=dtype)
    moved = 3 * _size(dtype, (N, K), (width, K), (N, width))
    yield Case(
        "linear", f"linear {N}x{K}x{width}", [x, w, b], lambda: ops.linear(x, w, b),
        lambda: F.linear(x, w, b), 6.0 * N * K * width, moved,
    )  # fmt: skip


def ffn(dtype: torch.dtype) -> Iterator[Case]:
    N, C = 1024, 768
    x = leaf(N, C, dtype=dtype)
    up, down = leaf(3072, C, dtype=dtype), leaf(C, 3072, dtype=dtype)
    yield Case(
        "ffn", f"GELU FFN {N}x{C}x3072", [x, up, down], lambda: ops.ffn(x, up, down),
        lambda: F.linear(F.gelu(F.linear(x, up)), down), 12.0 * N * C * 3072,
        3 * _size(dtype, (N, C), (N, 3072), (3072, C), (3072, C)),
    )  # fmt: skip
    u, g, d = leaf(2048, C, dtype=dtype), leaf(2048, C, dtype=dtype), leaf(C, 2048, dtype=dtype)
    yield Case(
        "ffn", f"SwiGLU FFN {N}x{C}x2048", [x, u, g, d],
        lambda: ops.ffn(x, u, d, gate_weight=g, activation="swiglu"),
        lambda: F.linear(F.silu(F.linear(x, g)) * F.linear(x, u), d), 18.0 * N * C * 2048,
        3 * _size(dtype, (N, C), (N, 2048), (N, 2048), (2048, C), (2048, C), (2048, C)),
    )  # fmt: skip


def _attention(
    dtype: torch.dtype, B: int, H: int, T: int, D: int, *, G: int = 0, masked: bool = False
) -> Case:
    G = G or H
    q, k, v = leaf(B, T, H, D, dtype=dtype), *(leaf(B, T, G, D, dtype=dtype) for _ in range(2))
    mask = torch.ones(T, T, dtype=torch.bool).tril() if masked else None

    def plain() -> Tensor:
        heads_first = (t.transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(
            *heads_first, attn_mask=mask, is_causal=not masked, enable_gqa=G != H
        ).transpose(1, 2)

    def ours() -> Tensor:
        return ops.attention(q, k, v, mask=mask, causal=not masked)

    # 4 B H T^2 D forward and 10 backward; causality leaves half, a mask tells nothing beforehand.
    pairs = B * H * D * float(T) * (T if masked else (T + 1) / 2)
    name = f"B{B} H{H}{f'/{G}' if G != H else ''} T{T} D{D}"
    return Case(
        "attention", f"attention {name} {'boolean mask' if masked else 'causal'}", [q, k, v], ours,
        plain, 14.0 * pairs, 3 * _size(dtype, (B, T, 2 * (H + G), D)), 4.0 * pairs,
    )  # fmt: skip


def attention(dtype: torch.dtype) -> Iterator[Case]:
    yield _attention(dtype, 1, 12, 1024, 64)
    yield _attention(dtype, 8, 6, 256, 64)
    yield _attention(dtype, 1, 8, 4096, 64)
    yield _attention(dtype, 1, 16, 2048, 128)
    yield _attention(dtype, 1, 16, 1024, 64, G=4)
    yield _attention(dtype, 1, 12, 1024, 64, masked=True)


def cross_entropy(dtype: torch.dtype) -> Iterator[Case]:
    N, V = 1024, 50257
    logits, targets = leaf(N, V, dtype=dtype), torch.randint(V, (N,))
    yield Case(
        "cross_entropy", f"cross-entropy of {N}x{V} logits", [logits],
        lambda: ops.cross_entropy(logits, targets), lambda: F.cross_entropy(logits, targets), 0.0,
        3 * _size(dtype, (N, V)),
    )  # fmt: skip


def linear_cross_entropy(dtype: torch.dtype) -> Iterator[Case]:
    N, C, V = 1024, 768, 50257
    x, w = leaf(N, C, dtype=dtype), leaf(V, C, dtype=dtype)
    targets = torch.randint(V, (N,))
    fused = getattr(F, "linear_cross_entropy", None)
    yield Case(
        "linear_cross_entropy", f"linear + cross-entropy {N}x{C}x{V}", [x, w],
        lambda: ops.linear_cross_entropy(x, w, targets),
        lambda: F.cross_entropy(F.linear(x, w).float(), targets), 6.0 * N * C * V,
        3 * _size(dtype, (N, C), (V, C)),
        others={"F.linear_cross_entropy": lambda: fused(x, w, targets)} if fused else {},
    )  # fmt: skip


ALL = (
    embedding, layer_norm, rms_norm, group_norm, rope, linear, ffn, attention, cross_entropy,
    linear_cross_entropy,
)  # fmt: skip


def cases(dtype: torch.dtype, ops_wanted: list[str] | None = None) -> Iterator[Case]:
    """All cases, or those of the named ops."""
    for make in ALL:
        if not ops_wanted or make.__name__ in ops_wanted:
            torch.manual_seed(0)
            yield from make(dtype)
