"""Kills `fusedlm train` again and again, lets it go on, and compares with a run that nobody disturbed.

    python tools/kill_test.py                        # 100 kills
    python tools/kill_test.py --kills 50 --seed 1 --json kills.json

Half of the kills come at a random moment: from the start of the process on, or from its first step on.
The others come at a random change of the disk: the process counts what it opens, creates, renames and
removes in the run's folder, and ends itself by SIGKILL in front of the n-th of these, which is mostly
amid a checkpoint. In a quarter of the lives two folders cannot be swapped in one step, as on some file systems,
and a checkpoint takes its place by two renames.

After each kill the last checkpoint must have the bytes that the undisturbed run had at that step, and the
run goes on by `fusedlm train --resume` (or, killed before its first checkpoint, begins anew). A run that
has reached its end is compared file by file: weights, optimizer, state, best model, and metrics.jsonl
without the speeds, which are measured. Then another run begins, until there are enough kills.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

TEXT = "a stitch in time saves nine; many hands make light work; " * 200
SHAPE = (
    "--layers 2 --width 48 --heads 2 --context 32 --tokenizer chars --batch 4 --dropout 0.1"
    " --warmup 5 --precision float32 --threads 1 --save-every 10 --eval-every 20 --eval-batches 2"
).split()
POINTS = 80  # a checkpoint has about 35 changes of the disk, a best model 25
LONGEST = 120.0  # seconds; a life takes a few
# What holds times and costs, which differ from run to run.
MEASURED = {"training.json", "README.md"}


class Damaged(AssertionError):
    """A checkpoint or a finished run is not what it must be."""


# In the process that is killed


def live(arguments: list[str], folder: Path, point: int, exchange: bool, record: Path | None):
    """The command, which ends itself in front of change number `point` of the folder."""
    from fusedlm.cli import main
    from fusedlm.models import folder as folders
    from fusedlm.train import loop

    if not exchange:
        folders._exchange = lambda *_: False
    if record is not None:
        _record(loop, record)
    if point:
        _die_at(point, folder)
    sys.argv = ["fusedlm", *arguments]
    main()


def _die_at(point: int, folder: Path) -> None:
    left, inside = point, str(folder)
    events = ("open", "os.", "shutil.", "tempfile.", "ctypes.dlsym")

    def count(event: str, values: tuple) -> None:
        nonlocal left
        if not event.startswith(events):
            return
        if event == "ctypes.dlsym":
            counts = values[-1] == "renameat2"
        else:
            counts = any(
                inside in os.fsdecode(v) for v in values if isinstance(v, (str, bytes, os.PathLike))
            )
        if counts:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def _record(loop, file: Path) -> None:
    """Writes down the digest of every checkpoint as it is saved."""
    plain, digests = loop.save_checkpoint, {}

    def saving(path, *rest):
        plain(path, *rest)
        step, found = digest(path)
        digests[step] = found
        file.write_text(json.dumps(digests))

    loop.save_checkpoint = saving


# In the process that kills


def digest(last: Path) -> tuple[str, str]:
    """(step, digest) of a checkpoint: all of its files but those with times."""
    total = hashlib.sha256()
    for file in sorted(last.rglob("*")):
        if file.is_file() and file.name not in MEASURED:
            total.update(f"{file.relative_to(last)}\0".encode() + file.read_bytes())
    return str(json.loads((last / "state.json").read_text())["step"]), total.hexdigest()


@dataclass
class Report:
    kills: int = 0
    runs: int = 0
    at: Counter = field(default_factory=Counter)  # how the kills came
    steps: list[int] = field(default_factory=list)  # of the checkpoint that each left
    half_done: int = 0  # kills that left something half written in the folder

    def to_dict(self) -> dict:
        return {**vars(self), "at": dict(self.at)}


class KillTest:
    """Runs in `folder`, all with the same settings; `run` raises Damaged at the first difference."""

    def __init__(self, folder: Path, seed: int, steps: int) -> None:
        self.folder, self.steps = folder, steps
        self.random = random.Random(seed)
        self.report = Report()
        self.text = folder / "text.txt"
        self.text.write_text(TEXT)
        self.expected = folder / "undisturbed"
        record = folder / "digests.json"
        process = self._start(self.expected, 0, True, record)
        self._must_end(process)
        self.digests: dict[str, str] = json.loads(record.read_text())

    def run(self, kills: int) -> Report:
        while self.report.kills < kills:
            out = self.folder / f"run{self.report.runs}"
            while not self._live(out, self.report.kills < kills):
                self._check_checkpoint(out)
            self._compare(out)
            self.report.runs += 1
        return self.report

    def _live(self, out: Path, kill: bool) -> bool:
        """One process; whether it has reached the end."""
        how = self.random.choice(["moment", "moment", "point", "point", "start"]) if kill else ""
        point = self.random.randint(1, POINTS) if how == "point" else 0
        process = self._start(out, point, self.random.random() < 0.75)
        if how == "moment":
            self._until_it_trains(process, out)
        if how in ("moment", "start"):
            wait = self.random.uniform(0, 1 if how == "moment" else 3)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait)
            process.kill()
        code = process.wait(LONGEST)
        if code == 0:
            return True
        if code != -signal.SIGKILL:
            raise Damaged(f"{out}: the command failed ({code}): {process.stderr.read()[-2000:]}")
        self.report.kills += 1
        self.report.at[how] += 1
        return False

    def _start(
        self, out: Path, point: int, exchange: bool, record: Path | None = None
    ) -> subprocess.Popen:
        if (out / "last").exists() or (out / ".last.previous").exists():
            command = ["train", "--resume", "--out", str(out), "--quiet"]
        else:
            command = ["train", str(self.text), "--out", str(out), "--quiet", *SHAPE]
            command += ["--steps", str(self.steps)]
        self.before = _lines(out)
        life = json.dumps([command, str(out), point, exchange, record and str(record)])
        return subprocess.Popen(
            [sys.executable, __file__, "--life", life], stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def _until_it_trains(self, process: subprocess.Popen, out: Path) -> None:
        end = time.monotonic() + LONGEST
        while process.poll() is None and _lines(out) in (self.before, b""):
            if time.monotonic() > end:
                process.kill()
                raise Damaged(f"{out}: no step within {LONGEST:.0f} s")
            time.sleep(0.002)

    def _must_end(self, process: subprocess.Popen) -> None:
        _, said = process.communicate(timeout=10 * LONGEST)
        if process.returncode:
            raise Damaged(f"the undisturbed run failed: {said[-2000:]}")

    def _check_checkpoint(self, out: Path) -> None:
        last = out / "last"
        self.report.half_done += any(out.glob(".*")) if out.exists() else 0
        if not last.exists():
            last = out / ".last.previous"  # between the two renames of a system that cannot swap
        if not last.exists():
            self.report.steps.append(0)
            return
        step, found = digest(last)
        self.report.steps.append(int(step))
        if found != self.digests.get(step):
            raise Damaged(f"{last}: the checkpoint of step {step} is not the undisturbed run's")

    def _compare(self, out: Path) -> None:
        for name in ("last", "best"):
            names = [_names(run / name) for run in (out, self.expected)]
            if names[0] != names[1]:
                raise Damaged(f"{out / name} has {names[0]}, expected {names[1]}")
            for file in names[1] - MEASURED:
                ours, theirs = (run / name / file for run in (out, self.expected))
                if ours.read_bytes() != theirs.read_bytes():
                    raise Damaged(f"{ours} differs from {theirs}")
        if _curve(out) != _curve(self.expected):
            raise Damaged(f"{out / 'metrics.jsonl'} differs beyond the speeds")
        if _names(out) != _names(self.expected):
            raise Damaged(f"{out} has {_names(out)}, expected {_names(self.expected)}")


def _names(folder: Path) -> set[str]:
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


def _lines(out: Path) -> bytes:
    try:
        return (out / "metrics.jsonl").read_bytes()
    except FileNotFoundError:
        return b""


def _curve(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000, help="of each run")
    parser.add_argument("--json", type=Path, help="write what was done")
    parser.add_argument("--life", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.life:
        command, folder, point, exchange, record = json.loads(given.life)
        live(command, Path(folder), point, exchange, record and Path(record))
        return 0
    with tempfile.TemporaryDirectory(prefix="fusedlm-kill-") as folder:
        try:
            report = KillTest(Path(folder), given.seed, given.steps).run(given.kills)
        except Damaged as error:
            print(f"DAMAGED: {error}")
            return 1
    kinds = ", ".join(f"{n} at a {how}" for how, n in report.at.most_common())
    print(
        f"{report.kills} kills ({kinds}) in {report.runs} runs of {given.steps} steps: every checkpoint"
        f" was whole, every run ended with the undisturbed one's bytes; {report.half_done} kills left"
        " something half written, which the next start cleared away"
    )
    if given.json:
        given.json.write_text(json.dumps({"seed": given.seed, **report.to_dict()}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
