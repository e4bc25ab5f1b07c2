"""Every op next to torch: `python -m benchmarks.ops [op ...] [--dtype bfloat16] [--device cuda]`.

On a GPU also next to torch.compile, whose fused kernels are Triton's.
"""

from __future__ import annotations

import argparse

import torch

import fusedlm
from benchmarks.cases import ALL, cases
from benchmarks.timing import add_device_option, alternate, check_device, roof


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [make.__name__ for make in ALL]
    parser.add_argument("ops", nargs="*", metavar="op", help=f"of {', '.join(names)}")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="both by default")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each line")
    add_device_option(parser)
    given = parser.parse_args()
    check_device(parser, given.device)
    if unknown := set(given.ops) - set(names):
        parser.error(f"unknown op {unknown.pop()!r}, known are {', '.join(names)}")
    print(f"isa {fusedlm.isa()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for dtype in (torch.float32, torch.bfloat16):
        if given.dtype and given.dtype not in str(dtype):
            continue
        peak = roof(dtype == torch.bfloat16, device=given.device)
        print(f"\n{str(dtype)[6:]}: roof {peak / 1e9:.0f} GFLOP/s; milliseconds, torch / ours")
        print(f"{'op':46} {'':8} {'ours':>8} {'torch':>8} {'best':>6} {'median':>7} {'roof':>6}")
        with torch.device(given.device):
            found = list(cases(dtype, given.ops))
        for case in found:
            ways = [("both", case.both, case.flops)]
            if case.forward_flops:
                ways.insert(0, ("forward", case.forward, case.forward_flops))
            for way, prepare, flops in ways:
                candidates = {"ours": prepare(case.ours), "torch": prepare(case.plain)}
                if given.device == "cuda":
                    candidates["compile"] = prepare(torch.compile(case.plain))
                times = alternate(candidates, given.seconds, given.device)
                a, b, c = times["ours"], times["torch"], times.get("compile")
                part = f"{flops / a.best / peak:6.0%}" if flops > case.bytes * 8 else ""
                print(
                    f"{case.name:46} {way:8} {a.best * 1e3:8.2f} {b.best * 1e3:8.2f}"
                    f" {b.best / a.best:5.2f}x {b.median / a.median:6.2f}x {part}"
                    + (f"  compiled: {c.best / a.best:5.2f}x" if c else "")
                )


if __name__ == "__main__":
    main()
