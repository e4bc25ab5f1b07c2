"""Every op next to torch eager: `python -m benchmarks.ops [op ...] [--dtype bfloat16] [--seconds 2]`."""

from __future__ import annotations

import argparse

import torch

import fusedlm
from benchmarks.cases import ALL, cases
from benchmarks.timing import alternate, roof


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [make.__name__ for make in ALL]
    parser.add_argument("ops", nargs="*", metavar="op", help=f"of {', '.join(names)}")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="both by default")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each line")
    given = parser.parse_args()
    if unknown := set(given.ops) - set(names):
        parser.error(f"unknown op {unknown.pop()!r}, known are {', '.join(names)}")
    print(f"isa {fusedlm.isa()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for dtype in (torch.float32, torch.bfloat16):
        if given.dtype and given.dtype not in str(dtype):
            continue
        peak = roof(dtype == torch.bfloat16)
        print(f"\n{str(dtype)[6:]}: roof {peak / 1e9:.0f} GFLOP/s; milliseconds, torch / ours")
        print(f"{'op':46} {'':8} {'ours':>8} {'torch':>8} {'best':>6} {'median':>7} {'roof':>6}")
        for case in cases(dtype, given.ops):
            ways = [("both", case.both, case.flops)]
            if case.forward_flops:
                ways.insert(0, ("forward", case.forward, case.forward_flops))
            for way, prepare, flops in ways:
                times = alternate(
                    {"ours": prepare(case.ours), "torch": prepare(case.plain)}, given.seconds
                )
                a, b = times["ours"], times["torch"]
                part = f"{flops / a.best / peak:6.0%}" if flops > case.bytes * 8 else ""
                print(
                    f"{case.name:46} {way:8} {a.best * 1e3:8.2f} {b.best * 1e3:8.2f}"
                    f" {b.best / a.best:5.2f}x {b.median / a.median:6.2f}x {part}"
                )


if __name__ == "__main__":
    main()
