"""Fixtures shared by all tests."""

from __future__ import annotations

import pytest
import torch

import fusedlm
from tests.support.gpu import HAS_GPU


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
