"""fusedlm.nn.Rope: a table as long as what was asked for, and the same angles however it grew."""

from __future__ import annotations

import pytest
import torch

from fusedlm import ops
from fusedlm.nn import Rope
from fusedlm.nn.rope import FIRST
from tests.support.compare import randn

LONG = FIRST + 1000


def heads(T: int) -> torch.Tensor:
    return randn(1, T, 2, 8, seed=T)


def turned(x: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
    return ops.rope(x, *ops.rope_tables(LONG, 8), positions=positions)


def test_a_context_of_a_billion_takes_no_memory_until_it_is_used():
    rope = Rope(10**9, 8)
    assert len(rope.cos) == FIRST
    assert torch.equal(rope(heads(5)), turned(heads(5)))
    assert len(rope.cos) == FIRST


def test_tables_grow_with_the_sequence_and_up_to_the_length():
    rope = Rope(LONG, 8)
    assert torch.equal(rope(heads(FIRST + 1)), turned(heads(FIRST + 1)))
    assert len(rope.cos) == len(rope.sin) == LONG


def test_tables_grow_with_the_positions():
    rope, x = Rope(LONG, 8), heads(3)
    positions = torch.tensor([7, LONG - 1, FIRST])
    assert torch.equal(rope(x, positions), turned(x, positions))
    with pytest.raises(ValueError, match=f"positions holds {LONG}, expected 0 to {LONG - 1}"):
        rope(x, positions + 1)


def test_compiled_and_exported_it_has_all_rows():
    rope, x = Rope(LONG, 8), heads(3)
    assert torch.equal(torch.compile(rope, backend="aot_eager")(x), turned(x))
    length = torch.export.Dim("length", min=2, max=LONG - 1)
    program = torch.export.export(Rope(LONG, 8), (x,), dynamic_shapes=({1: length},))
    long = heads(FIRST + 5)
    assert torch.equal(program.module()(long), turned(long))
