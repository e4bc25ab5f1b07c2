"""The emulator of the CUDA kernels runs a thread at a time: large shapes are not for it."""

from __future__ import annotations

import pytest

HOW_TO_EMULATE = 'pip install ".[test]" -C cmake.define.FUSEDLM_SIMT=ON'


def skip_large_under_emulator(isa: str, work: int, limit: int = 1 << 22) -> None:
    """Skips under "simt" what has more than `limit` element operations (half a second or so).

    `work` counts what a thread does one by one: elements of a norm, T * S * D of attention,
    N * C * F of a product. On the CPU's own instruction sets the test goes on.
    """
    if isa == "simt" and work > limit:
        pytest.skip(f"{work} operations, more than {limit} take too long under the emulator")
