"""Inputs that the fuzzer found, in files as small as they became: each is now taken or refused as it should be."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

for needed in ("gguf", "pyarrow", "llguidance", "starlette", "prometheus_client"):
    pytest.importorskip(needed)

from tools.fuzz.case import CORPUS, Case  # noqa: E402
from tools.fuzz.driver import tried  # noqa: E402
from tools.fuzz.targets import TARGETS  # noqa: E402

FILES = sorted(CORPUS.glob("*/*--*"))


@cache
def cases(target: str) -> dict[str, Case]:
    return {case.name: case for case in TARGETS[target].cases()}


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_found_input_is_taken_or_refused_with_its_name(file: Path):
    target = TARGETS[file.parent.name]
    case = cases(target.name)[file.name.partition("--")[0]]
    assert tried(target, case, file.read_bytes()) is None


def test_every_target_has_found_inputs():
    assert {file.parent.name for file in FILES} == set(TARGETS)
