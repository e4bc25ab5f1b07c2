"""Memory that training steps, and a head, add to a process at their highest, next to torch eager (Linux).

python -m benchmarks.memory [small large gpt2 head] [--dtype bfloat16]

`head` is linear + cross-entropy of 1024 x 768 x 50257, without the gradients that it returns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def resident(what: str) -> int:
    """VmRSS or VmHWM (its peak) of this process, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def peak_of(setup: str, from_the_model_on: bool = False) -> float:
    """GB that two calls of `step`, which the code `setup` defines, add in a process of their own.

    With `from_the_model_on` what `setup` makes counts too (its last line does; imports do not).
    """
    *before, last = setup.strip().splitlines()
    start = "open('/proc/self/clear_refs', 'w').write('5'); base = resident('VmRSS')"
    code = [
        "from benchmarks.memory import resident",
        *before,
        *((start, last) if from_the_model_on else (last, start)),
        "step(); step(); print(resident('VmHWM') - base)",
    ]
    out = subprocess.run(
        [sys.executable, "-c", "\n".join(code)], stdout=subprocess.PIPE, text=True, check=True
    )
    return int(out.stdout.split()[-1]) / 2**20


HEAD = """
import torch
import torch.nn.functional as F
from fusedlm import ops
N, C, V = 1024, 768, 50257
x, w = (torch.randn(n, C).to(torch.{dtype}).requires_grad_() for n in (N, V))
targets = torch.randint(V, (N,))
calls = dict(
    ours=lambda: ops.linear_cross_entropy(x, w, targets),
    eager=lambda: F.cross_entropy(F.linear(x, w).float(), targets),
)
def step(): return torch.autograd.grad(calls[{peer!r}](), (x, w))
"""


def head_peak(dtype: str, peer: str) -> float:
    """GB beyond both gradients."""
    gradients = (1024 + 50257) * 768 * (4 if dtype == "float32" else 2)
    return peak_of(HEAD.format(dtype=dtype, peer=peer)) - gradients / 2**30


def training_peak(shape: str, dtype: str, peer: str) -> float:
    """GB from the model on; "recompute" is ours with activations computed again."""
    return peak_of(
        "import torch\nfrom benchmarks.training import SHAPES, candidates\n"
        f"step = candidates(SHAPES[{shape!r}], torch.{dtype}, ({peer!r},))[{peer!r}]",
        from_the_model_on=True,
    )


def main() -> None:
    from benchmarks.training import SHAPES

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [*SHAPES, "head"]
    parser.add_argument("shapes", nargs="*", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="both by default")
    given = parser.parse_args()
    if unknown := set(given.shapes) - set(known):
        parser.error(f"unknown shape {unknown.pop()!r}, known are {', '.join(known)}")
    for name in given.shapes or known:
        for dtype in (given.dtype,) if given.dtype else ("bfloat16", "float32"):
            if name == "head":
                found = {peer: head_peak(dtype, peer) for peer in ("ours", "eager")}
            else:
                peers = ("ours", "recompute", "eager")
                found = {peer: training_peak(name, dtype, peer) for peer in peers}
            line = f"{name:6} {SHAPES.get(name, '')!s:46} {dtype:8}"
            for peer, peak in found.items():
                line += f"  {peer} {peak:.2f} GB ({peak / found['eager']:.2f}x)"
            print(line, flush=True)


if __name__ == "__main__":
    main()
