"""Every op, forward and backward, next to torch eager: `python -m benchmarks.ops [name ...]`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F

import fusedlm
from benchmarks.timing import alternate, roof
from fusedlm import ops


def leaf(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(*shape) * 0.1).to(dtype).requires_grad_()


def both_ways(call: Callable[[], torch.Tensor], leaves: list[torch.Tensor]) -> Callable[[], None]:
    gradient = torch.ones_like(call())

    def run() -> None:
        for tensor in leaves:
            tensor.grad = None
        call().backward(gradient)

    return run


def layer_norm(dtype):
    x, w, b = leaf(4096, 768, dtype=dtype), leaf(768, dtype=dtype), leaf(768, dtype=dtype)
    yield (
        "layer_norm 4096x768",
        [x, w, b],
        lambda: ops.layer_norm(x, w, b),
        (lambda: F.layer_norm(x, (768,), w, b)),
        0.0,
    )


def add_layer_norm(dtype):
    x, r = leaf(4096, 768, dtype=dtype), leaf(4096, 768, dtype=dtype)
    w, b = leaf(768, dtype=dtype), leaf(768, dtype=dtype)
    yield (
        "add + layer_norm 4096x768",
        [x, r, w, b],
        (lambda: ops.layer_norm(x, w, b, residual=r)[0]),
        (lambda: F.layer_norm(x + r, (768,), w, b)),
        0.0,
    )


def rms_norm(dtype):
    x, w = leaf(4096, 768, dtype=dtype), leaf(768, dtype=dtype)
    yield (
        "rms_norm 4096x768",
        [x, w],
        lambda: ops.rms_norm(x, w),
        (lambda: F.rms_norm(x, (768,), w, 1e-6)),
        0.0,
    )


def linear(dtype):
    x, w, b = leaf(1024, 768, dtype=dtype), leaf(2304, 768, dtype=dtype), leaf(2304, dtype=dtype)
    yield (
        "linear 1024x768x2304",
        [x, w, b],
        lambda: ops.linear(x, w, b),
        (lambda: F.linear(x, w, b)),
        6.0 * 1024 * 768 * 2304,
    )


def ffn_gelu(dtype):
    x, up, down = (leaf(*s, dtype=dtype) for s in ((1024, 768), (3072, 768), (768, 3072)))
    yield (
        "ffn gelu 1024x768x3072",
        [x, up, down],
        lambda: ops.ffn(x, up, down),
        (lambda: F.linear(F.gelu(F.linear(x, up)), down)),
        12.0 * 1024 * 768 * 3072,
    )


def ffn_swiglu(dtype):
    x, up, gate = (leaf(*s, dtype=dtype) for s in ((1024, 768), (2048, 768), (2048, 768)))
    down = leaf(768, 2048, dtype=dtype)
    yield (
        "ffn swiglu 1024x768x2048",
        [x, up, gate, down],
        (lambda: ops.ffn(x, up, down, gate_weight=gate, activation="swiglu")),
        (lambda: F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)),
        18.0 * 1024 * 768 * 2048,
    )


def embedding(dtype):
    tokens = torch.randint(50257, (8, 1024))
    w = leaf(50257, 768, dtype=dtype)
    yield (
        "embedding 8x1024 of 50257x768",
        [w],
        lambda: ops.embedding(tokens, w),
        (lambda: F.embedding(tokens, w)),
        0.0,
    )


def rope(dtype):
    x = leaf(4, 1024, 12, 64, dtype=dtype)
    cos, sin = ops.rope_tables(1024, 64)
    full_cos, full_sin = (torch.cat([t, t], -1)[:, None].to(dtype) for t in (cos, sin))

    def plain():
        low, high = x.chunk(2, -1)
        return x * full_cos + torch.cat([-high, low], -1) * full_sin

    yield "rope 4x1024x12x64", [x], lambda: ops.rope(x, cos, sin), plain, 0.0


def attention(dtype):
    for B, H, T, D in ((1, 12, 1024, 64), (8, 6, 256, 64)):
        q, k, v = (leaf(B, T, H, D, dtype=dtype) for _ in range(3))

        def plain(q=q, k=k, v=v):
            heads_first = (t.transpose(1, 2) for t in (q, k, v))
            return F.scaled_dot_product_attention(*heads_first, is_causal=True).transpose(1, 2)

        def ours(q=q, k=k, v=v):
            return ops.attention(q, k, v, causal=True)

        # 4 B H T^2 D forward and 10 backward, halved by the causal mask.
        yield (
            f"attention causal B{B} H{H} T{T} D{D}",
            [q, k, v],
            ours,
            plain,
            7.0 * B * H * T * T * D,
        )


def linear_cross_entropy(dtype):
    x, w = leaf(1024, 768, dtype=dtype), leaf(50257, 768, dtype=dtype)
    targets = torch.randint(50257, (1024,))
    yield (
        "linear_cross_entropy 1024x768x50257",
        [x, w],
        (lambda: ops.linear_cross_entropy(x, w, targets)),
        (lambda: F.cross_entropy(F.linear(x, w).float(), targets)),
        6.0 * 1024 * 768 * 50257,
    )


CASES = [
    embedding,
    layer_norm,
    add_layer_norm,
    rms_norm,
    rope,
    linear,
    ffn_gelu,
    ffn_swiglu,
    attention,
    linear_cross_entropy,
]


def main(names: list[str]) -> None:
    torch.manual_seed(0)
    print(f"isa {fusedlm.isa()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for dtype in (torch.float32, torch.bfloat16):
        peak = roof(dtype == torch.bfloat16)
        print(f"\n{dtype}: roof {peak / 1e9:.0f} GFLOP/s; forward + backward, milliseconds")
        print(f"{'op':38} {'ours':>8} {'torch':>8} {'best':>6} {'median':>7} {'roof':>6}")
        for case in CASES:
            if names and case.__name__ not in names:
                continue
            for name, leaves, ours, plain, flops in case(dtype):
                times = alternate(
                    {"ours": both_ways(ours, leaves), "torch": both_ways(plain, leaves)}
                )
                a, b = times["ours"], times["torch"]
                part = f"{flops / a.best / peak:6.0%}" if flops else "      "
                print(
                    f"{name:38} {a.best * 1e3:8.2f} {b.best * 1e3:8.2f} {b.best / a.best:5.2f}x"
                    f" {b.median / a.median:6.2f}x {part}"
                )


if __name__ == "__main__":
    main(sys.argv[1:])
