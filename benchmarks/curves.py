"""How the cost grows with T, C, V and falls with threads: `python -m benchmarks.curves [path.png]`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import plots
from benchmarks.timing import alternate
from fusedlm import ops

Pair = dict[str, Callable[[], None]]


def leaf(*shape: int) -> Tensor:
    return (torch.randn(*shape) * 0.1).bfloat16().requires_grad_()


def backward(call: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], None]:
    def run() -> None:
        for tensor in leaves:
            tensor.grad = None
        call().sum().backward()

    return run


def attention(T: int) -> Pair:
    leaves = [leaf(1, T, 8, 64) for _ in range(3)]

    def plain() -> Tensor:
        return F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in leaves), is_causal=True)

    return {
        "ours": backward(lambda: ops.attention(*leaves, causal=True), leaves),
        "torch": backward(plain, leaves),
    }


def ffn(C: int) -> Pair:
    x, up, down = leaf(512, C), leaf(4 * C, C), leaf(C, 4 * C)
    return {
        "ours": backward(lambda: ops.ffn(x, up, down), [x, up, down]),
        "torch": backward(lambda: F.linear(F.gelu(F.linear(x, up)), down), [x, up, down]),
    }


def head(V: int) -> Pair:
    x, w, targets = leaf(512, 384), leaf(V, 384), torch.randint(V, (512,))
    return {
        "ours": backward(lambda: ops.linear_cross_entropy(x, w, targets), [x, w]),
        "torch": backward(lambda: F.cross_entropy(F.linear(x, w).float(), targets), [x, w]),
    }


def sweep(
    values: list[int], make: Callable[[int], Pair], seconds: float
) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for value in values:
        for name, times in alternate(make(value), seconds).items():
            lines.setdefault(name, []).append((value, times.best * 1e3))
    return lines


def over_threads(seconds: float) -> dict[str, list[tuple[float, float]]]:
    before = torch.get_num_threads()

    def make(threads: int) -> Pair:
        torch.set_num_threads(threads)
        return ffn(768)

    try:
        return sweep([2**i for i in range(before.bit_length()) if 2**i <= before], make, seconds)
    finally:
        torch.set_num_threads(before)


def measure(path: Path, seconds: float = 1.0) -> None:
    """Draws the four curves, bfloat16, forward and backward, into `path`."""
    plots.lines(
        {
            "T: causal attention, 8 heads of 64": sweep(
                [256, 512, 1024, 2048, 4096, 8192], attention, seconds
            ),
            "C: GELU FFN, 512 rows": sweep([256, 512, 1024, 2048], ffn, seconds),
            "V: linear + cross-entropy, 512 x 384": sweep(
                [1024, 4096, 16384, 65536], head, seconds
            ),
            "threads: GELU FFN, 512 x 768": over_threads(seconds),
        },
        path,
    )


if __name__ == "__main__":
    measure(Path(sys.argv[1] if len(sys.argv) > 1 else "curves.png"))
