"""A slice of the grids of tools/numerics.py: no error is more than twice that of plain torch."""

from __future__ import annotations

import pytest

from tools import numerics


@pytest.mark.parametrize("grid", numerics.GRIDS, ids=lambda g: g.__name__)
def test_a_slice_of_each_grid_is_within_twice_torchs_error(grid):
    for by_dtype in numerics.measure([grid], step=29).values():
        for worst in by_dtype.values():
            assert worst.cases and not worst.over, worst.over
