"""Dropout as torch defines it."""

from __future__ import annotations

import pytest
import torch

from fusedlm.nn.dropout import dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.3, 0.75])
def test_the_share_is_zero_and_the_rest_is_scaled_in_both_directions(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(3, 211, 101, dtype=dtype, requires_grad=True)
    y = dropout(x, p)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())  # what is dropped gets no gradient
    assert float((y == 0).float().mean()) == pytest.approx(p, abs=0.01)
    scaled = torch.tensor(1 / (1 - p), dtype=dtype)
    assert set(y.unique().tolist()) == {0.0, scaled.item()}


def test_rows_and_columns_are_dropped_alike():
    torch.manual_seed(1)
    zeros = (dropout(torch.ones(400, 400), 0.25) == 0).float()
    for means in (zeros.mean(0), zeros.mean(1)):
        assert float((means - 0.25).abs().max()) < 0.1 and float(means.std()) < 0.03


def test_a_seed_gives_the_same_mask():
    x = torch.randn(7, 5)
    torch.manual_seed(2)
    first = dropout(x, 0.5)
    torch.manual_seed(2)
    assert torch.equal(first, dropout(x, 0.5)) and not torch.equal(first, dropout(x, 0.5))
