"""Memory that training steps add to a process at their highest, next to torch eager (Linux).

python -m benchmarks.memory [small large gpt2] [--dtype bfloat16]
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


def main() -> None:
    from benchmarks.training import SHAPES

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", help=f"of {', '.join(SHAPES)}; all by default")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="both by default")
    given = parser.parse_args()
    for name in given.shapes or SHAPES:
        for dtype in (given.dtype,) if given.dtype else ("bfloat16", "float32"):
            ours, eager = (
                peak_of(
                    "import torch\nfrom benchmarks.training import SHAPES, candidates\n"
                    f"step = candidates(SHAPES[{name!r}], torch.{dtype}, ({peer!r},))[{peer!r}]",
                    from_the_model_on=True,
                )
                for peer in ("ours", "eager")
            )
            print(
                f"{name:6} ({SHAPES[name]}), {dtype:8}: {ours:.2f} GB,"
                f" torch eager {eager:.2f} GB ({ours / eager:.2f}x)",
                flush=True,
            )


if __name__ == "__main__":
    main()
