"""The soak tool: a short run passes, and what it is there to find it finds."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.support.child import ROOT, environment
from tools.soak.meter import MB, Limits, Meter, slope, slow_down

# A leak of 100 kB a step, where the process notices it as little as that of a library: in plain bytes.
LEAK = """
import sys
from fusedlm.optim import AdamW
from tools.soak.__main__ import main
plain, kept = AdamW.step, []
def leaking(*arguments):
    kept.append(b"x" * 100_000 + bytes([len(kept) % 256]))
    return plain(*arguments)
AdamW.step = leaking
sys.exit(main())
"""


def soak(*start: str, seconds: float, generations: int, json_file=None) -> tuple[int, str]:
    """Exit code and what was printed, of a process of its own: the memory of this one is not flat."""
    command = [sys.executable, *start, "--seconds", str(seconds), "--generations", str(generations)]
    command += ["--json", str(json_file)] if json_file else []
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_short_run_passes_and_says_what_it_measured(tmp_path):
    file = tmp_path / "soak.json"
    code, said = soak("-m", "tools.soak", seconds=2, generations=400, json_file=file)
    assert code == 0 and said.endswith("passed\n"), said
    found = json.loads(file.read_text())
    assert found["passed"] and [f["name"] for f in found["found"]] == [
        "training steps",
        "generations",
    ]
    training, generations = found["found"]
    assert training["steps"] >= 200 and training["seconds"] >= 2 and generations["steps"] == 400
    assert all(f"{f['growth']:+.3f} MB per 1,000" in said for f in found["found"])


def test_a_leak_of_a_training_step_is_found():
    code, said = soak("-c", LEAK, seconds=2, generations=0)
    assert code == 1 and "memory grows, at most 1 MB per 1,000 expected" in said, said
    assert said.endswith("FAILED\n")


def meter(memory, times, monkeypatch, kinds: int = 4) -> Meter:
    """One that saw these numbers."""
    now, resident = [0.0], [0]
    monkeypatch.setattr("tools.soak.meter.time.process_time", lambda: now[0])
    monkeypatch.setattr("tools.soak.meter.resident", lambda: resident[0])
    made = Meter("steps", Limits())
    for number, (size, seconds) in enumerate(zip(memory, times, strict=True)):
        made.begin(number % kinds)
        now[0] += seconds * (1 + number % kinds)  # kinds take unlike times
        resident[0] = int(size)
    made.end()
    return made


@pytest.mark.parametrize(
    ("growth", "slower", "fault"),
    [(0.9, 1.2, ""), (1.1, 1.0, "memory grows"), (0.0, 1.3, "it becomes slower")],
)
def test_limits_are_on_growth_after_the_first_quarter_and_on_time_at_the_end(
    monkeypatch, growth, slower, fault
):
    count = 20_000
    at = np.arange(count)
    peaks = 50 * MB * (at % 97 == 0)
    filling = 300 * MB * np.minimum(at / (count / 5), 1)  # caches, in the first quarter
    memory = filling + peaks + growth * at / 1000 * MB
    times = np.where(at < count * 3 / 4, 0.01, 0.01 * slower) + (at % 31 == 0)
    verdict = meter(memory, times, monkeypatch).verdict()
    assert verdict.growth == pytest.approx(growth, abs=0.02)
    assert verdict.slow_down == pytest.approx(slower, rel=0.02)
    assert len(verdict.faults) == bool(fault) and "".join(verdict.faults).startswith(fault)


def test_one_kind_of_step_is_compared_with_itself():
    kinds = np.array([0] * 20 + [1] * 20 + [0, 1] * 20)
    times = np.where(kinds == 1, 5.0, 1.0)
    assert slow_down(kinds, times) == 1.0  # although the last quarter has more of what takes long
    assert slope(np.full(50, 7.0)) == pytest.approx(0, abs=1e-9)


def test_too_few_steps_are_no_verdict(monkeypatch):
    with pytest.raises(ValueError, match="steps: 15 pieces, expected at least 16"):
        meter([0] * 15, [1.0] * 15, monkeypatch).verdict()


def test_a_file_that_is_left_open_is_found(monkeypatch):
    count = [3]
    monkeypatch.setattr("tools.soak.meter.open_files", lambda: count[0])
    made = Meter("steps", Limits())
    for number in range(20):
        made.begin(0)
        count[0] += number == 15
    made.end()
    assert "1 files were left open" in made.verdict().faults
