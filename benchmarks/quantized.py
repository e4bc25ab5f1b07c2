"""Products with weights in every format next to torch's bfloat16 linear, for one row and for a prompt.

    python -m benchmarks.quantized [--rows 1 4 16 512] [--seconds 1]

Weights are far larger than the caches together, and each call takes the next, as decoding does. Without
Python: fusedlm_bench weights (benchmarks/cpp).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable

import torch

import fusedlm
from benchmarks.timing import alternate
from fusedlm import _core, ops

SHAPES = [(1536, 576), (2048, 2048), (49152, 576)]
_LEAST_BYTES = 192 << 20  # of all copies of a weight


def in_turn(calls: list[Callable[[], object]]) -> Callable[[], object]:
    turn = itertools.cycle(calls)
    return lambda: next(turn)()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 512])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each line")
    given = parser.parse_args()
    rate = _core.bandwidth_measure(256 << 20, 1.0)
    print(f"isa {fusedlm.isa()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"reading memory: {rate / 1e9:.1f} GB/s; milliseconds, x is bfloat16")
    print(
        f"{'weight':14} {'rows':>4} {'format':9} {'ours':>8} {'torch':>8} {'best':>6} {'read':>10}"
    )
    for outputs, inputs in SHAPES:
        weight = torch.randn(outputs, inputs, dtype=torch.bfloat16) * inputs**-0.5
        theirs = [weight.clone() for _ in range(_copies(weight.nbytes))]
        for rows, format in itertools.product(given.rows, ops.WEIGHT_FORMATS):
            if inputs % _core.weight_block_size(format):
                continue
            one = ops.quantize(weight, format)
            ours = [_copy(one) for _ in range(_copies(one.nbytes))]
            x = torch.randn(rows, inputs).bfloat16()
            times = alternate(
                {
                    "ours": in_turn([lambda w=w, x=x: ops.quantized_linear(x, w) for w in ours]),
                    "torch": in_turn(
                        [lambda w=w, x=x: torch.nn.functional.linear(x, w) for w in theirs]
                    ),
                },
                given.seconds,
            )
            a, b = times["ours"].median, times["torch"].median
            read = f"{one.nbytes / a / 1e9:5.1f} GB/s {one.nbytes / a / rate:4.0%}"
            print(
                f"{outputs:5} x {inputs:5}  {rows:4} {format:9} {a * 1e3:8.3f} {b * 1e3:8.3f}"
                f" {b / a:5.2f}x {read if rows <= 16 else ''}"
            )


def _copies(size: int) -> int:
    return max(1, -(-_LEAST_BYTES // size))


def _copy(weight: ops.QuantizedWeight) -> ops.QuantizedWeight:
    data = torch.frombuffer(_core.ArenaBlock(weight.data.numel()), dtype=torch.uint8)  # huge pages
    data.copy_(weight.data.flatten())
    return ops.QuantizedWeight(
        data.view_as(weight.data), weight.format, weight.rows, weight.cols, weight.scales
    )


if __name__ == "__main__":
    main()
