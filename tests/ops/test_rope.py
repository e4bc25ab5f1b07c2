"""Rotary position embedding against float64, on every instruction set."""

from __future__ import annotations

import pytest
import torch

from fusedlm import ops
from tests.support import reference
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.compare import assert_same_bits, randn, results_by_threads
from tests.support.dtypes import DTYPES

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def run(function, x, dout, dtype, *tables, **options):
    leaf = x.to(dtype).clone().requires_grad_()
    out = function(
        leaf,
        *(t.to(torch.float64 if dtype == torch.float64 else t.dtype) for t in tables),
        **options,
    )
    out.backward(dout.to(dtype))
    return out.detach(), leaf.grad


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 2), (2, 17, 3, 6), (1, 113, 2, 64), (3, 5, 1, 130),
        # More heads than a thread of the GPU takes, heads of an odd number of packs, wide tokens.
        (2, 3, 9, 32), (1, 4, 2, 40), (2, 2, 40, 256),
    ],
)  # fmt: skip
@pytest.mark.parametrize("part", [1.0, 0.5, 0.4])
def test_equals_float64(isa, shape, part, interleaved, dtype):
    rotated = max(2, int(shape[3] * part) // 2 * 2)
    tables = ops.rope_tables(shape[1] + 3, rotated)
    x, dout = randn(*shape, seed=0).to(dtype), randn(*shape, seed=1).to(dtype)
    positions = torch.arange(shape[1]).flip(0) + 3
    options = {"interleaved": interleaved, "positions": positions}
    ours = run(ops.rope, x, dout, dtype, *tables, **options)
    plain = run(reference.rope, x, dout, dtype, *tables, **options)
    exact = run(reference.rope, x, dout, torch.float64, *tables, **options)
    for name, a, b, c in zip(("out", "dx"), ours, plain, exact, strict=True):
        assert_as_accurate_as_torch(a, b, c, name)


def test_positions_count_from_zero_and_may_differ_by_row(isa):
    tables = ops.rope_tables(20, 8)
    x = randn(2, 6, 2, 8, seed=0)
    assert torch.equal(ops.rope(x, *tables), ops.rope(x, *tables, positions=torch.arange(6)))
    each = torch.stack([torch.arange(6), torch.arange(6) + 9])
    both = ops.rope(x, *tables, positions=each)
    assert torch.equal(both[1:], ops.rope(x[1:], *tables, positions=each[1]))
    assert not torch.equal(both[1:], ops.rope(x[1:], *tables))


@pytest.mark.parametrize(
    "scaling", [None, {"rope_type": "default"}, {"type": "linear", "factor": 4.0}, LLAMA3]
)
def test_tables_follow_the_published_formulas(scaling):
    for ours, theirs in zip(
        ops.rope_tables(100, 16, 500.0, scaling=scaling),
        reference.rope_tables(100, 16, 500.0, scaling=scaling),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-7)


@pytest.mark.parametrize(
    "options", [
        {}, {"attention_factor": 0.7}, {"beta_fast": 3.0, "beta_slow": 0.01}, {"factor": 1.0},
        {"original_max_position_embeddings": 3}, {"beta_fast": 1.0},
    ]
)  # fmt: skip
@pytest.mark.parametrize("D", [2, 16, 64])
def test_tables_of_yarn_are_those_of_transformers(D, options):
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        **options,
    }
    config = transformers.LlamaConfig(head_dim=D, rope_parameters={"rope_theta": 500.0, **scaling})
    rates, magnitude = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
    angles = torch.outer(torch.arange(100.0, dtype=torch.float64), rates.double())
    cos, sin = ops.rope_tables(100, D, 500.0, scaling=scaling)
    for ours, theirs in ((cos, angles.cos()), (sin, angles.sin())):
        torch.testing.assert_close(ours.double(), magnitude * theirs, rtol=0, atol=2e-5)


def test_same_bits_for_any_number_of_threads(isa):
    tables, x = ops.rope_tables(300, 16), randn(2, 300, 3, 16, seed=0)
    assert_same_bits(results_by_threads(lambda: [ops.rope(x, *tables)]))


@pytest.mark.parametrize("D", [8, 9])
def test_views_equal_their_copies_and_empty_is_empty(isa, D):
    tables, wide = ops.rope_tables(9, 8), randn(2, 9, 6, D, seed=0)
    part = wide[:, :, 1:4]
    assert torch.equal(ops.rope(part, *tables), ops.rope(part.contiguous(), *tables))
    assert ops.rope(wide[:, :0], *tables).shape == (2, 0, 6, D)


def test_the_first_heads_alone_turn_and_the_others_are_copied(isa):
    tables, x = ops.rope_tables(9, 8), randn(2, 9, 6, 8, seed=0).requires_grad_()
    out = ops.rope(x, *tables, heads=4)
    assert torch.equal(out[:, :, :4], ops.rope(x[:, :, :4], *tables))
    assert torch.equal(out[:, :, 4:], x[:, :, 4:])
    dout = randn(2, 9, 6, 8, seed=0)
    (grad,) = torch.autograd.grad(out, x, dout)
    (turned,) = torch.autograd.grad(ops.rope(x, *tables), x, dout)
    assert torch.equal(grad, torch.cat([turned[:, :, :4], dout[:, :, 4:]], dim=2))


def test_bad_arguments_are_named():
    tables, x = ops.rope_tables(9, 8), randn(2, 9, 6, 8, seed=0)
    with pytest.raises(ValueError, match="positions holds 9, expected 0 to 8"):
        ops.rope(x, *tables, positions=torch.arange(9) + 1)
    with pytest.raises(ValueError, match="10 tokens, but cos has 9 rows"):
        ops.rope(randn(1, 10, 1, 8, seed=0), *tables)
    with pytest.raises(ValueError, match=r"positions has shape \[3\]"):
        ops.rope(x, *tables, positions=torch.arange(3))
    with pytest.raises(ValueError, match="expected at most D / 2 = 3"):
        ops.rope(randn(1, 9, 1, 6, seed=0), *tables)
    with pytest.raises(ValueError, match="x has dtype float64"):
        ops.rope(x.double(), *tables)
    with pytest.raises(ValueError, match="heads is 7, expected 1 to H = 6"):
        ops.rope(x, *tables, heads=7)
    with pytest.raises(ValueError, match="dim is 7"):
        ops.rope_tables(4, 7)
    with pytest.raises(ValueError, match="lacks 'factor'"):
        ops.rope_tables(4, 8, scaling={"rope_type": "linear"})
    with pytest.raises(ValueError, match="rope_type 'dynamic'"):
        ops.rope_tables(4, 8, scaling={"rope_type": "dynamic"})
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}
    with pytest.raises(ValueError, match="mscale 0"):
        ops.rope_tables(4, 8, scaling={**yarn, "mscale": 0.7})
    assert torch.equal(
        ops.rope_tables(4, 8, scaling={**yarn, "attention_factor": None, "beta_fast": None})[0],
        ops.rope_tables(4, 8, scaling=yarn)[0],
    )
    with pytest.raises(ValueError, match="lacks 'original_max_position_embeddings'"):
        ops.rope_tables(4, 8, scaling={"rope_type": "yarn", "factor": 2.0})


def test_opcheck_compile_and_autocast():
    tables, x = ops.rope_tables(5, 8), randn(1, 5, 2, 8, seed=0).requires_grad_()
    torch.library.opcheck(torch.ops.fusedlm.rope.default, (x, *tables, None, 1, True, False))
    compiled = torch.compile(lambda x: ops.rope(x, *tables), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), ops.rope(x, *tables))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.rope(x, *tables).dtype == torch.bfloat16
