"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import tempfile

import pytest
import torch

import fusedlm
from tests.support.emulator import HOW_TO_EMULATE
from tests.support.gpu import HAS_GPU

# What torch.compile made of an older version of the ops must not be found again.
_COMPILED = tempfile.TemporaryDirectory(prefix="fusedlm-inductor-")
os.environ["TORCHINDUCTOR_CACHE_DIR"] = _COMPILED.name


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


# In a build with the emulator of the CUDA kernels that includes "simt"; tests/ops/test_emulator.py
# says how to get one. On a GPU, "cuda" stands for it: all tensors of a test are made there.
@pytest.fixture(params=[*fusedlm.available_isas(), *(["cuda"] if HAS_GPU else [])])
def isa(request):
    """Runs a test once for each instruction set of this machine, under the emulator and on a GPU."""
    if request.param == "cuda":
        with torch.device("cuda"):
            yield request.param
        return
    before = fusedlm.isa()
    fusedlm.set_isa(request.param)
    yield request.param
    fusedlm.set_isa(before)


@pytest.fixture
def simt():
    """The CUDA kernels under their emulator."""
    if "simt" not in fusedlm.available_isas():
        pytest.skip(f"built without the emulator of CUDA kernels; {HOW_TO_EMULATE}")
    before = fusedlm.isa()
    fusedlm.set_isa("simt")
    yield
    fusedlm.set_isa(before)
