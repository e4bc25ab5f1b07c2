"""A short run of every fuzzer, the same inputs each time. Long ones: docs/trust.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

for needed in ("gguf", "pyarrow", "llguidance", "starlette", "prometheus_client"):
    pytest.importorskip(needed)

from tools.fuzz.targets import TARGETS  # noqa: E402

INPUTS = 2000


@pytest.fixture(scope="module")
def results() -> dict[str, dict]:
    """By target, of one process: it forks, which one with threads and a loaded pytest should not."""
    command = [sys.executable, "-m", "tools.fuzz", "all", "--inputs", str(INPUTS), "--json"]
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(lines) == len(TARGETS), run.stderr
    return {line["target"]: line for line in lines}


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_input_is_taken_or_refused_with_its_name(results, target):
    assert results[target]["inputs"] == INPUTS and results[target]["findings"] == []
