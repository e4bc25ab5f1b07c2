"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import tempfile

import pytest
import torch

import fusedlm
from tests.support.emulator import HOW_TO_EMULATE
from tests.support.gpu import EMULATED, HAS_EMULATOR, ON_DEVICE, what_can_run

# What torch.compile made of an older version of the ops must not be found again.
_COMPILED = tempfile.TemporaryDirectory(prefix="fusedlm-inductor-")
os.environ["TORCHINDUCTOR_CACHE_DIR"] = _COMPILED.name


def pytest_report_header():
    return what_can_run()


def pytest_terminal_summary(terminalreporter):
    """-q, which pyproject.toml sets, leaves the header out: then the lines stand at the end."""
    if terminalreporter.verbosity == -1:
        for line in what_can_run():
            terminalreporter.write_line(line)


def pytest_collection_modifyitems(config, items):
    """float16 has kernels on the GPU alone. For the CPU it is widened in front of them, which one
    instruction set shows as well as four."""
    isas = fusedlm.available_isas()
    others = {isa for isa in isas if isa not in (fusedlm.isa(), "simt")}
    kept, dropped = [], []
    for item in items:
        params = (getattr(item, "callspec", None) and item.callspec.params) or {}
        values = [v for p in params.values() for v in (p if isinstance(p, (list, tuple)) else (p,))]
        half = any(v is torch.float16 for v in values)
        (dropped if half and params.get("isa") in others else kept).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


CPU_ISAS = [isa for isa in fusedlm.available_isas() if isa != "simt"]


@pytest.fixture(params=[*CPU_ISAS, EMULATED, ON_DEVICE])
def isa(request):
    """Runs a test once for each instruction set of this machine ("simt" is the emulator of the CUDA
    kernels) and as "cuda" on a GPU, where all tensors of a test are made by default."""
    yield from _running_on(request.param)


@pytest.fixture
def simt():
    """The CUDA kernels under their emulator."""
    if not HAS_EMULATOR:
        pytest.skip(f"built without the emulator of CUDA kernels; {HOW_TO_EMULATE}")
    yield from _running_on("simt")


@pytest.fixture(params=["cpu", EMULATED, ON_DEVICE])
def kernels(request):
    """As `isa`, for what is alike on every instruction set of the CPU: one of them says it."""
    yield from _running_on(fusedlm.isa() if request.param == "cpu" else request.param)


def _running_on(isa):
    if isa == "cuda":
        with torch.device("cuda"):
            yield isa
        return
    before = fusedlm.isa()
    fusedlm.set_isa(isa)
    yield isa
    fusedlm.set_isa(before)
