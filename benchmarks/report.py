"""Everything against torch eager and torch.compile, in turn: a table, a roofline and curves.

    python -m benchmarks.report [--seconds 2] [--only ops training curves]

Writes docs/benchmarks.md and the plots beside it; each section says machine, versions and date.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import platform
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

import fusedlm
from benchmarks import curves, plots, training
from benchmarks.cases import ALL, Case, cases
from benchmarks.timing import Times, alternate, bandwidth, roof

DOCS = Path(__file__).resolve().parent.parent / "docs"
DTYPES = (torch.bfloat16, torch.float32)
PARTS = ("ops", "training", "curves")
TITLES = ("Training step", "Ops", "Against length, width, vocabulary and threads")
INTRODUCTION = """# Benchmarks

`python -m benchmarks.report` measures all of this. Candidates ran in turn in one process, each op in a\
 process of its own. `best` and `median` are torch's time over ours, above 1 where ours is faster. `roof` is\
 the share of what multiply-adds reach that never leave the registers."""


@dataclass(frozen=True)
class Row:
    """One line of a table; `roof` is the share of the register-only peak, None where memory limits."""

    name: str
    dtype: str
    times: dict[str, Times]
    roof: float | None

    def cells(self) -> list[str]:
        ours = self.times["ours"]
        cells = [self.name, self.dtype, milliseconds(ours)]
        for peer in ("eager", "compile"):
            t = self.times.get(peer)
            cells.append("" if t is None else milliseconds(t))
            cells.append("" if t is None else f"{t.best / ours.best:.2f}x")
            cells.append("" if t is None else f"{t.median / ours.median:.2f}x")
        return [*cells, "" if self.roof is None else f"{self.roof:.0%}"]


HEADER = (
    "what", "dtype", "ours ms", "eager ms", "best", "median", "compile ms", "best", "median", "roof",
)  # fmt: skip


def milliseconds(t: Times) -> str:
    return f"{t.best * 1e3:.2f}"


def table(rows: list[Row]) -> str:
    lines = ["| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
    return "\n".join(lines + ["| " + " | ".join(row.cells()) + " |" for row in rows])


def others(rows: list[Row]) -> str:
    """A line for each peer that only some rows have."""
    return "\n".join(
        f"- {row.name}, {row.dtype}, next to {name}: {milliseconds(t)} ms,"
        f" {t.best / row.times['ours'].best:.2f}x (best), {t.median / row.times['ours'].median:.2f}x (median)"
        for row in rows
        for name, t in row.times.items()
        if name not in ("ours", "eager", "compile")
    )


def measure_ops(seconds: float) -> tuple[list[Row], list[plots.Point]]:
    """Each op in a process of its own: what others left behind in malloc decides whether torch's large
    results fault their pages in (embedding 9 ms) or not (33 ms), and in which order depends on the list."""
    rows, points = [], []
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as pool:
        work = [(op.__name__, dtype) for dtype in DTYPES for op in ALL]
        futures = [pool.submit(measure_op, op, dtype, seconds) for op, dtype in work]
        for future in tqdm(futures, desc="ops"):
            more_rows, more_points = future.result()
            rows += more_rows
            points += more_points
    return rows, points


def measure_op(op: str, dtype: torch.dtype, seconds: float) -> tuple[list[Row], list[plots.Point]]:
    rows, points = [], []
    peak, short = roof(dtype == torch.bfloat16), str(dtype)[6:]
    for case in cases(dtype, [op]):
        for way, prepare, flops in ways_of(case):
            found = measure_case(case, prepare, seconds)
            limited = flops < case.bytes * 8  # below 8 operations a byte memory is the limit
            share = None if limited else flops / found["ours"].best / peak
            rows.append(Row(f"{case.name}, {way}", short, found, share))
            if way == "both":
                for who in ("ours", "eager"):
                    points.append(
                        plots.Point(short, who, flops / case.bytes, flops / found[who].best)
                    )
        torch._dynamo.reset()
    return rows, points


def ways_of(case: Case) -> list[tuple[str, Callable, float]]:
    ways = [("both", case.both, case.flops)]
    return [("forward", case.forward, case.forward_flops), *ways] if case.forward_flops else ways


def measure_case(case: Case, prepare: Callable, seconds: float) -> dict[str, Times]:
    runs = {"ours": prepare(case.ours), "eager": prepare(case.plain)}
    runs["compile"] = prepare(torch.compile(case.plain))
    runs |= {name: prepare(call) for name, call in case.others.items()}
    return alternate(runs, seconds)


def measure_training(seconds: float) -> list[Row]:
    rows = []
    for s in tqdm(list(training.SHAPES.values()), desc="training steps"):
        for dtype in DTYPES:
            peak = roof(dtype == torch.bfloat16)
            times = alternate(training.candidates(s, dtype), seconds)
            share = s.flops() / times["ours"].best / peak
            rows.append(Row(f"training step, {s}", str(dtype)[6:], times, share))
            torch._dynamo.reset()
    return rows


def machine() -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    return (
        f"{datetime.date.today()}, {name}, {torch.get_num_threads()} threads, {fusedlm.isa()};"
        f" fusedlm {fusedlm.__version__}, torch {torch.__version__},"
        f" Python {platform.python_version()}"
    )


def read_sections(file: Path) -> dict[str, str]:
    """The sections of an earlier report by title, which `--only` others leave as they are."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return {title: body.strip() for title, body in zip(parts[1::2], parts[2::2], strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each line of the ops")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the report")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "benchmarks.md"
    roofs = {str(d)[6:]: roof(d == torch.bfloat16) for d in DTYPES}
    memory = bandwidth()
    measured = (
        f"Measured: {machine()}. Roofs: "
        + ", ".join(f"{v / 1e9:.0f} GFLOP/s in {k}" for k, v in roofs.items())
        + f"; memory copies at {memory / 1e9:.0f} GB/s."
    )

    def write(title: str, *text: str) -> None:  # after each: what a run that is cut off has, stays
        sections = read_sections(file) | {title: "\n\n".join((measured, *text))}
        parts = [f"## {name}\n\n{sections[name]}" for name in TITLES if name in sections]
        file.write_text("\n\n".join((INTRODUCTION, *parts)) + "\n", encoding="utf-8")

    if "training" in given.only:
        rows = measure_training(10 * given.seconds)
        write("Training step", "Forward, backward, clipping and AdamW.", table(rows))
    if "ops" in given.only:
        rows, points = measure_ops(given.seconds)
        plots.roofline(points, roofs, memory, given.out / "roofline.png")
        write("Ops", table(rows), others(rows), "![roofline](roofline.png)")
    if "curves" in given.only:
        curves.measure(given.out / "curves.png", given.seconds)
        write(TITLES[2], "![curves](curves.png)")
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
