"""Trains and generates with varying shapes for long, and says whether memory stays flat and steps fast.

    python -m tools.soak                                     # an hour of steps, 10,000 generations
    python -m tools.soak --seconds 60 --generations 0 --json soak.json

Exit code 1 where memory grows by more than 1 MB per 1,000 steps or generations after the first quarter,
or where the median step of the last quarter takes more than 1.25 of the first quarter's processor time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

import fusedlm
from tools.memory import resident

from . import generations, training
from .meter import MB, Limits, Meter, Verdict

SECONDS = 15.0  # from one line of progress to the next


def main() -> int:
    given = _arguments()
    torch.set_num_threads(given.threads)
    limits = Limits(given.growth, given.slow_down)
    verdicts: list[Verdict] = []
    if given.seconds > 0:
        meter = Meter("training steps", limits)
        training.run(meter, given.seconds, _progress())
        verdicts.append(_said(meter))
    if given.generations > 0:
        meter = Meter("generations", limits, generations.ROUND)
        generations.run(meter, given.generations, _progress())
        verdicts.append(_said(meter))
    failed = any(v.faults for v in verdicts)
    print("FAILED" if failed else "passed", flush=True)
    if given.json:
        about = {"isa": fusedlm.isa(), "threads": given.threads, "torch": torch.__version__}
        found = {**about, "passed": not failed, "found": [asdict(v) for v in verdicts]}
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.soak", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seconds", type=float, default=3600, help="of training; 0: none")
    parser.add_argument("--generations", type=int, default=10_000, help="0: none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--growth", type=float, default=Limits.growth, help="MB per 1,000 at most")
    parser.add_argument("--slow-down", type=float, default=Limits.slow_down, help="at most")
    parser.add_argument("--json", type=Path, help="write what was found")
    return parser.parse_args()


def _progress() -> Callable[[Meter], None]:
    """Prints a line now and then."""
    next_line = time.monotonic() + SECONDS

    def report(meter: Meter) -> None:
        nonlocal next_line
        if time.monotonic() < next_line:
            return
        next_line = time.monotonic() + SECONDS
        print(
            f"  {meter.name}: {meter.steps:,} in {meter.seconds:,.0f} s, {resident() / MB:.1f} MB",
            flush=True,
        )

    return report


def _said(meter: Meter) -> Verdict:
    verdict = meter.verdict()
    print(verdict, flush=True)
    return verdict


if __name__ == "__main__":
    sys.exit(main())
