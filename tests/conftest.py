"""Fixtures shared by all tests."""

from __future__ import annotations

import pytest

import fusedlm


@pytest.fixture(params=fusedlm.available_isas())
def isa(request):
    """Runs a test once for each instruction set of this machine."""
    before = fusedlm.isa()
    fusedlm.set_isa(request.param)
    yield request.param
    fusedlm.set_isa(before)
