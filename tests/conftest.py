"""Fixtures shared by all tests."""

from __future__ import annotations

import pytest

import fusedlm

HOW_TO_EMULATE = 'pip install -e ".[test]" -C cmake.define.FUSEDLM_SIMT=ON'


def _isas():
    """Those of this machine, and the emulator of the CUDA kernels as "simt": skipped where missing."""
    available = fusedlm.available_isas()
    if "simt" in available:
        return available
    missing = pytest.mark.skip(reason=f"built without the emulator; install with {HOW_TO_EMULATE}")
    return [*available, pytest.param("simt", marks=missing)]


@pytest.fixture(params=_isas())
def isa(request):
    """Runs a test once for each instruction set of this machine, and under the emulator."""
    before = fusedlm.isa()
    fusedlm.set_isa(request.param)
    yield request.param
    fusedlm.set_isa(before)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """An op whose CUDA kernel is still to come skips its tests under the emulator, visibly."""
    try:
        return (yield)
    except NotImplementedError as error:
        if pyfuncitem.funcargs.get("isa") == "simt" and "has no CUDA kernel yet" in str(error):
            pytest.skip(str(error))
        raise
