"""The kernel suite for pytest-benchmark: `pytest benchmarks/`, with --benchmark-compare and so on."""

from __future__ import annotations

import pytest
import torch

from benchmarks.cases import cases

pytest.importorskip("pytest_benchmark", reason="needs pip install '.[bench]'")

with torch.device("meta"):  # names alone; nothing is allocated
    CASES = {case.name: case.op for case in cases(torch.float32)}


@pytest.mark.parametrize("who", ["ours", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def bench(benchmark, name, dtype, who):
    case = next(case for case in cases(dtype, [CASES[name]]) if case.name == name)
    benchmark.group = f"{name}, {str(dtype)[6:]}, forward and backward"
    benchmark(case.both(case.ours if who == "ours" else case.plain))
