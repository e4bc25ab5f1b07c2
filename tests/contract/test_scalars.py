"""What stands for rows has a last dimension: a scalar is refused by name, and rows of no columns too."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fusedlm.numpy
from fusedlm import ops

ONE, COLUMN, ROW, TARGET = torch.tensor(1.0), torch.ones(4, 1), torch.ones(1), torch.tensor(0)
CALLS = {
    "rms_norm: x": lambda: ops.rms_norm(ONE, ROW),
    "layer_norm: x": lambda: ops.layer_norm(ONE, ROW, ROW),
    "linear: x": lambda: ops.linear(ONE, COLUMN),
    "ffn: x": lambda: ops.ffn(ONE, COLUMN, COLUMN.T),
    "linear_cross_entropy: x": lambda: ops.linear_cross_entropy(ONE, COLUMN, TARGET),
    "embedding: tokens": lambda: ops.embedding(TARGET, COLUMN, position_weight=COLUMN),
    "sample: logits": lambda: ops.sample(ONE),
    "rope: x": lambda: ops.rope(ONE, COLUMN, COLUMN),
    "attention: query": lambda: ops.attention(ONE, ONE, ONE),
    "quantize: weight": lambda: ops.quantize(ONE, "int8"),
    "quantized_linear: x": lambda: ops.quantized_linear(ONE, ops.quantize(COLUMN, "int8")),
    "linear: x of NumPy": lambda: fusedlm.numpy.linear(1.0, COLUMN.numpy()),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_scalar_is_refused_by_name(name):
    op, argument = name.removesuffix(" of NumPy").split(": ")
    with pytest.raises(ValueError, match=rf"{op}: {argument} has shape \[\]"):
        CALLS[name]()


@pytest.mark.parametrize("fake", [False, True])
def test_rows_without_columns_are_refused_or_have_their_shape(fake):
    def shapes() -> list[list[int]]:
        x, weight = torch.ones(3, 0), torch.ones(0)
        calls = [lambda: ops.ffn(x, torch.ones(4, 0), torch.ones(0, 4))]
        if fake:  # the kernels refuse these, of which fakes know nothing
            calls += [lambda: ops.rms_norm(x, weight), lambda: ops.layer_norm(x, weight, weight)]
        return [list(call().shape) for call in calls]

    if fake:
        with FakeTensorMode():
            assert shapes() == [[3, 0]] * 3
    else:
        assert shapes() == [[3, 0]]
        for norm in (ops.rms_norm, ops.layer_norm):
            with pytest.raises(ValueError, match=r"x has shape \[3, 0\], expected C > 0"):
                norm(torch.ones(3, 0), torch.ones(0), *[torch.ones(0)] * (norm is ops.layer_norm))
