"""What a run is made of and what it has cost, for training.json and the model card."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch

import fusedlm
from fusedlm._sharded import ranks
from fusedlm.models.files import read_json

from .task import Task

POWERCAP = Path("/sys/class/powercap")  # Intel's and AMD's counters of energy (RAPL), on Linux


class Record:
    """The data, command and versions of a run; `to_dict` adds the cost so far.

    `before` is the folder of the checkpoint that the run goes on from: its cost counts too.
    """

    def __init__(self, task: Task, fingerprint: str, before: Path | None) -> None:
        self._fixed = {
            "data": {**task.about_data(), "fingerprint": fingerprint},
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "versions": {
                "fusedlm": fusedlm.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        spent = {} if before is None else read_json(before / "training.json", optional=True)
        self._before = spent.get("cost") or {}
        self._resumed = before is not None
        self._started = time.perf_counter(), time.process_time()
        self._energy = EnergyMeter()

    def to_dict(self) -> dict[str, Any]:
        wall, cpu = self._started
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        joules = self._energy.joules()
        earlier = self._before.get("joules")
        if joules is not None and self._resumed:  # a part nobody measured makes a sum of nothing
            joules = None if earlier is None else joules + earlier
        cost = {
            "seconds": round(seconds + self._before.get("seconds", 0.0), 3),
            "cpu_seconds": round(cpu_seconds + self._before.get("cpu_seconds", 0.0), 3),
            "joules": joules,
            "processes": ranks(),
        }
        return {**self._fixed, "cost": cost}


class EnergyMeter:
    """Joules of the processor packages since it was made, whatever ran on them; None without RAPL.

    A counter that overflowed is found out once between two readings, which checkpoints make often
    enough (it takes an hour or so).
    """

    def __init__(self, folder: Path = POWERCAP) -> None:
        # Packages alone: intel-rapl:0:1 and the like are parts of intel-rapl:0.
        packages = sorted(p for p in folder.glob("intel-rapl:*") if p.name.count(":") == 1)
        self._last = {package: _microjoules(package, "energy_uj") for package in packages}
        self._range = {p: _microjoules(p, "max_energy_range_uj") for p in packages}
        self._total = 0

    def joules(self) -> float | None:
        for package, last in self._last.items():
            now, largest = _microjoules(package, "energy_uj"), self._range[package]
            if now is None or last is None or largest is None:
                return None  # only the superuser may read them on many systems
            self._total += now - last + (largest if now < last else 0)
            self._last[package] = now
        return self._total / 1e6 if self._last else None


def _microjoules(package: Path, name: str) -> int | None:
    try:
        return int((package / name).read_text())
    except (OSError, ValueError):
        return None
