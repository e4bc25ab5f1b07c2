"""How the cost grows with T, C, V and falls with threads: `python -m benchmarks.curves [path.png]`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import plots
from benchmarks.cases import both_ways, leaf
from benchmarks.timing import alternate
from fusedlm import ops

BF16 = torch.bfloat16
Pair = dict[str, Callable[[], None]]


def attention(T: int) -> Pair:
    leaves = [leaf(1, T, 8, 64, dtype=BF16) for _ in range(3)]

    def plain() -> Tensor:
        return F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in leaves), is_causal=True)

    return {
        "ours": both_ways(lambda: ops.attention(*leaves, causal=True), leaves),
        "torch": both_ways(plain, leaves),
    }


def ffn(C: int) -> Pair:
    x, up, down = leaf(512, C, dtype=BF16), leaf(4 * C, C, dtype=BF16), leaf(C, 4 * C, dtype=BF16)
    return {
        "ours": both_ways(lambda: ops.ffn(x, up, down), [x, up, down]),
        "torch": both_ways(lambda: F.linear(F.gelu(F.linear(x, up)), down), [x, up, down]),
    }


def head(V: int) -> Pair:
    x, w, targets = leaf(512, 384, dtype=BF16), leaf(V, 384, dtype=BF16), torch.randint(V, (512,))
    return {
        "ours": both_ways(lambda: ops.linear_cross_entropy(x, w, targets), [x, w]),
        "torch": both_ways(lambda: F.cross_entropy(F.linear(x, w).float(), targets), [x, w]),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", type=Path, default=Path("curves.png"))
    parser.add_argument("--seconds", type=float, default=1.0, help="for each point")
    given = parser.parse_args()
    measure(given.path, given.seconds)


if __name__ == "__main__":
    main()
