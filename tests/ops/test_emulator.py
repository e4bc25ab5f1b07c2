"""The CUDA kernels run on the CPU, in builds that have their emulator."""

from __future__ import annotations

import pytest
import torch

import fusedlm
from fusedlm import ops
from tests.support.compare import randn
from tests.support.emulator import HOW_TO_EMULATE


def test_cuda_kernels_run_under_the_emulator_when_asked():
    if "simt" not in fusedlm.available_isas():
        pytest.skip(f"built without the emulator of CUDA kernels; {HOW_TO_EMULATE}")
    before = fusedlm.isa()
    assert before != "simt", "the emulator is never chosen by default"
    x, weight = randn(4, 33, seed=0), randn(33, seed=1)
    expected = ops.rms_norm(x, weight)
    try:
        fusedlm.set_isa("simt")
        assert fusedlm.isa() == "simt"
        torch.testing.assert_close(ops.rms_norm(x, weight), expected)
    finally:
        fusedlm.set_isa(before)
