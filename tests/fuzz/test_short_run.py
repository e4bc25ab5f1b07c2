"""A short run of every fuzzer, the same inputs each time, and what longer ones found: docs/trust.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

for needed in ("gguf", "pyarrow", "llguidance", "starlette", "prometheus_client"):
    pytest.importorskip(needed)

from tools.fuzz.case import CORPUS  # noqa: E402
from tools.fuzz.targets import TARGETS  # noqa: E402

INPUTS = 2000


def fuzz(*options: object) -> subprocess.CompletedProcess:
    """In a process of its own: it forks, which one with threads and a loaded pytest should not."""
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "tools.fuzz", *map(str, options)],
        cwd=root, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def results() -> dict[str, dict]:
    """By target."""
    run = fuzz("all", "--inputs", INPUTS, "--json")
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(lines) == len(TARGETS), run.stderr
    return {line["target"]: line for line in lines}


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_input_is_taken_or_refused_with_its_name(results, target):
    assert results[target]["inputs"] == INPUTS and results[target]["findings"] == []


@pytest.mark.parametrize("target", sorted(folder.name for folder in CORPUS.iterdir()))
def test_what_was_found_stays_mended(target):
    run = fuzz(target, "--corpus")
    lines = run.stdout.splitlines()
    assert run.returncode == 0 and len(lines) == len(list((CORPUS / target).iterdir())), run
    assert all(line.endswith(": as it should be") for line in lines)
