"""Group norm against float64, on every instruction set."""

from __future__ import annotations

import pytest
import torch

from fusedlm import ops
from tests.support import reference
from tests.support.compare import (
    assert_equals_float64,
    assert_same_bits,
    outputs_and_gradients,
    randn,
    results_by_threads,
)  # fmt: skip
from tests.support.dtypes import DTYPES
from tests.support.gpu import ON_GPU

# Of x, and the groups. Behind the channels nothing, fewer elements than a vector or a warp has lanes,
# or many; few long rows and many short ones; rows beyond what a block of threads keeps.
SHAPES = [
    ((1, 3), 1),
    ((17, 3), 1),
    ((3, 17, 1), 1),
    ((1, 17, 3), 17),
    ((113, 6, 3), 2),
    ((3, 1, 17), 1),
    ((17, 3, 113), 3),
    ((5, 1023), 11),
    ((3, 1025, 3), 5),
    ((1, 4, 1023), 2),
    ((2, 3, 1025), 1),
    ((2, 6, 5, 7), 2),
    ((2, 4, 3, 4, 16), 1),
    ((1030, 16), 2),
    ((2, 64, 32), 8),
    ((3, 4, 136), 4),
    ((1, 2, 8200), 1),
]


def call(module, groups: int):
    return lambda t: module.group_norm(t["x"], groups, t.get("weight"), t.get("bias"))


def inputs(shape, without=()):
    named = {"x": randn(*shape, seed=0) + 0.5}
    named["weight"], named["bias"] = (randn(shape[1], seed=1 + i) for i in range(2))
    return {name: t for name, t in named.items() if name not in without}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, groups", SHAPES, ids=str)
def test_equals_float64(isa, shape, groups, dtype):
    grads = [randn(*shape, seed=9)]
    assert_equals_float64(
        call(ops, groups), call(reference, groups), inputs(shape), grads, dtype
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(5, 12), (5, 12, 40)])
@pytest.mark.parametrize("without", [("weight",), ("bias",), ("weight", "bias")], ids=str)
def test_without_weight_or_bias_equals_float64(isa, without, shape):
    named, grads = inputs(shape, without), [randn(*shape, seed=9)]
    assert_equals_float64(call(ops, 3), call(reference, 3), named, grads, torch.float32)


@pytest.mark.parametrize("shape", [(9, 77), (9, 7, 33)])
@pytest.mark.parametrize("scale, mean", [(1e-6, 0.0), (1e4, 0.0), (1.0, 1000.0)])
def test_tiny_large_and_far_values(isa, scale, mean, shape):
    named = inputs(shape)
    named["x"] = named["x"] * scale + mean
    grads = [randn(*shape, seed=9)]
    assert_equals_float64(call(ops, 7), call(reference, 7), named, grads, torch.float32)


@pytest.mark.parametrize("shape", [(2, 34), (2, 2, 1023)])
@pytest.mark.parametrize("value", [0.0, 1.25e8, 1e30, 1e38])
def test_equal_values_have_no_variance_however_large_they_are(isa, value, shape):
    x, dy = torch.full(shape, value).requires_grad_(), randn(*shape, seed=9)
    weight, bias = randn(shape[1], seed=1), randn(shape[1], seed=2)
    out = ops.group_norm(x, 2, weight, bias)
    out.backward(dy)
    of_channels = (1, -1, *(1 for _ in shape[2:]))
    assert torch.equal(out, bias.view(of_channels).expand(shape))
    g = (dy * weight.view(of_channels)).view(2, 2, -1)
    expected = (g - g.mean(2, keepdim=True)) * 1e5**0.5
    torch.testing.assert_close(x.grad, expected.view(shape), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e18, 1e30, 1e37])
def test_values_whose_squares_are_beyond_float32(isa, scale, dtype):
    named = inputs((3, 6, 29))
    named["x"] = named["x"] * scale
    named = {k: v.to(dtype) for k, v in named.items()}
    exact = call(reference, 2)({k: v.double() for k, v in named.items()})
    torch.testing.assert_close(call(ops, 2)(named), exact.to(dtype))


def test_the_sums_of_a_long_group_lose_nothing(isa):
    # Equal squares are rounded the same way at every addition: a plain sum of them drifts.
    x = torch.full((1, 1, 1 << 18), 0.3)
    x[..., ::2] = -0.3
    y = ops.group_norm(x, 1, eps=0.0)
    torch.testing.assert_close(y, x.sign(), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 20)])
def test_nan_spoils_its_group_only(isa, shape):
    named = inputs(shape)
    named["x"][1, 3] = float("nan")
    out = call(ops, 3)(named)
    assert out[1, 2:4].isnan().all()
    assert torch.isfinite(out[0]).all() and torch.isfinite(out[1, [0, 1, 4, 5]]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape, groups", [((60, 8, 211), 2), ((3, 4, 13001), 2), ((5000, 24), 3)], ids=str
)
def test_same_bits_for_any_number_of_threads(isa, shape, groups, dtype):
    named, grads = inputs(shape), [randn(*shape, seed=9)]
    assert_same_bits(
        results_by_threads(
            lambda: list(outputs_and_gradients(call(ops, groups), named, grads, dtype).values())
        )
    )


def test_large_results_go_around_the_caches_unchanged(isa):
    if isa in ON_GPU:
        pytest.skip("a way of the CPU's kernels")
    x = randn(1, 32, 1 << 15, seed=0).requires_grad_()  # 4 MiB
    y = ops.group_norm(x, 2)
    y.backward(x.detach())
    part = x.detach()[:, :16].clone().requires_grad_()
    small = ops.group_norm(part, 1)
    small.backward(part.detach())
    assert torch.equal(y[:, :16], small) and torch.equal(x.grad[:, :16], part.grad)


def test_float32_parameters_serve_bfloat16_activations(isa):
    named = inputs((6, 4, 9))
    parameters = {k: v.requires_grad_() for k, v in named.items() if k != "x"}
    out = call(ops, 2)({**parameters, "x": named["x"].bfloat16()})
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 for p in parameters.values())


def test_strided_input_and_gradient_equal_their_copies(isa):
    wide, grad = randn(6, 8, 10, 12, seed=0), randn(8 * 10 * 12, seed=1)
    for view in (
        wide[..., 3],
        wide[:1, :, ::2, 1].expand(6, 8, 5),
        wide[:, ::2, :, 0],
        wide.permute(0, 3, 1, 2)[..., 2],
        wide.to(memory_format=torch.channels_last),
    ):
        x, copy = (t.detach().requires_grad_() for t in (view, view.contiguous()))
        out, expected = ops.group_norm(x, 2), ops.group_norm(copy, 2)
        assert torch.equal(out, expected)
        arrives = grad[: out[0].numel()].view(out.shape[1:]).expand(out.shape)
        out.backward(arrives)
        expected.backward(arrives.contiguous())
        assert torch.equal(x.grad, copy.grad)


@pytest.mark.parametrize("shape", [(0, 8), (0, 8, 5), (2, 8, 0)])
def test_nothing_gives_nothing(isa, shape):
    named = {k: v.requires_grad_() for k, v in inputs(shape).items()}
    out = call(ops, 2)(named)
    out.sum().backward()
    assert out.shape == shape and named["x"].grad.shape == shape
    assert not named["weight"].grad.any() and not named["bias"].grad.any()


def test_bad_arguments_are_named():
    x, weight = torch.ones(3, 8, 5), torch.ones(8)
    for args, message in (
        ((x, 3), r"groups is 3, expected a divisor of C = 8 as in x"),
        ((x, 0), r"groups is 0, expected a divisor of C = 8 as in x"),
        ((x, 2, torch.ones(7)), r"weight has shape \[7\], expected 8 in dimension 0 as in x"),
        ((x, 2, weight, torch.ones(8, 1)), r"bias has shape \[8, 1\], expected 1 dimensions"),
        ((x, 2, weight, weight.bfloat16()), "bias has dtype bfloat16, expected float32"),
        ((x, 2, weight.double()), "weight has dtype float64, expected float32 or bfloat16"),
        ((x.double(), 2), "x has dtype float64, expected float32 or bfloat16"),
        ((x[0, 0], 1), r"x has shape \[5\], expected at least 2 dimensions"),
        ((x[:, :0], 1), r"x has shape \[3, 0, 5\], expected C > 0"),
        ((x, 2, weight.to("meta")), "tensors are on cpu and meta, expected one device"),
    ):
        with pytest.raises(ValueError, match=f"group_norm: {message}"):
            ops.group_norm(*args)


def test_opcheck_without_weight_and_bias():
    x = inputs((5, 8, 3))["x"].requires_grad_()
    torch.library.opcheck(torch.ops.fusedlm.group_norm.default, (x, 4, None, None, 1e-5))
