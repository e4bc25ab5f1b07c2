"""What is particular to float16: its range, its mixing with other types, and its way over the CPU.

That every op computes in it as well as in bfloat16, the tests of the ops say.
"""

from __future__ import annotations

import pytest
import torch

from fusedlm import _core as core
from fusedlm import ops
from tests.support import reference
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.compare import randn

HALF = torch.float16


def test_on_the_cpu_results_are_those_of_float32_rounded():
    x, weight, bias = (randn(*s, seed=i).to(HALF) for i, s in enumerate([(5, 24), (9, 24), (9,)]))
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    y = ops.linear(*leaves)
    y.backward(torch.ones_like(y))
    wide = [t.float().requires_grad_() for t in (x, weight, bias)]
    expected = ops.linear(*wide)
    expected.backward(torch.ones_like(expected))
    assert torch.equal(y, expected.to(HALF))
    for a, b in zip(leaves, wide, strict=True):
        assert torch.equal(a.grad, b.grad.to(HALF))


def test_the_kernels_of_the_cpu_name_the_dtype_they_lack():
    x, y = torch.ones(2, 8, dtype=HALF), torch.empty(2, 8, dtype=HALF)
    with pytest.raises(
        ValueError, match=r"rms_norm: x has dtype float16, expected float32 or bfloat16$"
    ):
        core.rms_norm_forward(x, None, torch.ones(8), y, None, torch.empty(2), 1e-6)


def test_two_half_types_do_not_meet_in_a_call(simt):
    x, weight = torch.ones(2, 8, dtype=HALF), torch.ones(8, 8, dtype=torch.bfloat16)
    with pytest.raises(
        ValueError, match="linear: weight has dtype bfloat16, expected float32 or float16"
    ):
        ops.linear(x, weight)
    with pytest.raises(ValueError, match="rms_norm: weight has dtype float16, expected float32 or"):
        ops.rms_norm(weight, x[0])


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_parameters_serve_float32_activations(kernels, half):
    x, residual = randn(70, 33, seed=0), randn(70, 65, seed=1)
    parameters = randn(65, 33, seed=2).to(half), randn(65, seed=3).to(half)
    ours = [t.clone().requires_grad_() for t in (x, *parameters)]
    plain = [t.to(torch.float32, copy=True).requires_grad_() for t in (x, *parameters)]
    dy = randn(70, 65, seed=4)
    y = ops.linear(*ours, activation="silu", residual=residual)
    y.backward(dy)
    expected = reference.linear(*plain, activation="silu", residual=residual)
    expected.backward(dy)
    torch.testing.assert_close(y, expected)
    for a, b in zip(ours, plain, strict=True):
        assert a.grad.dtype == a.dtype
        torch.testing.assert_close(a.grad, b.grad.to(a.dtype), rtol=1e-2, atol=1e-4)


def test_a_mean_over_many_rows_keeps_small_gradients_when_the_loss_is_scaled(kernels):
    # Of 600 rows and 50 classes a gradient of a logit is some 3e-5; a fifth of the range that float16
    # rounds to nothing lies above that, so without the scale most digits would be lost.
    N, C, V, scale = 600, 16, 50, 2.0**14
    x, weight = randn(N, C, seed=0).to(HALF), (randn(V, C, seed=1) * 0.1).to(HALF)
    targets = (randn(N, seed=2) * 1e6).long() % V
    targets[::7] = -100
    class_weight = randn(V, seed=3).abs() + 0.5

    def run(function, dtype):
        leaves = [t.to(dtype).clone().requires_grad_() for t in (x, weight)]
        loss = function(*leaves, targets, class_weight=class_weight)
        (loss * scale).backward()
        return [loss.detach(), *(leaf.grad for leaf in leaves)]

    results = (
        run(ops.linear_cross_entropy, HALF),
        run(reference.linear_cross_entropy, HALF),
        run(reference.linear_cross_entropy, torch.float64),
    )
    for name, ours, plain, exact in zip(("loss", "dx", "dweight"), *results, strict=True):
        assert_as_accurate_as_torch(ours, plain, exact, name)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_is_that_of_float32(kernels, reduction):
    x, weight = randn(40, 16, seed=0).to(HALF), randn(30, 16, seed=1).to(HALF)
    targets = (randn(4, 10, seed=2) * 1e6).long() % 30
    targets[1] = 3
    for options in ({}, {"label_smoothing": 0.1, "z_loss": 0.01, "ignore_index": 3}):
        loss = ops.linear_cross_entropy(
            x.view(4, 10, 16), weight, targets, reduction=reduction, **options
        )
        expected = reference.linear_cross_entropy(
            x.float().view(4, 10, 16), weight.float(), targets, reduction=reduction, **options
        )
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-3)
    nothing = ops.linear_cross_entropy(x, weight, targets.view(-1) * 0 - 100, reduction=reduction)
    assert nothing.isnan() if reduction == "mean" else nothing == 0


def test_what_is_beyond_the_range_is_infinite(kernels):
    x = torch.full((3, 64), 60000.0, dtype=HALF)
    assert torch.equal(ops.linear(x, torch.ones(8, 64, dtype=HALF)), torch.full((3, 8), torch.inf))
    assert ops.rms_norm(x, torch.ones(64), residual=x)[1].isinf().all()
    weights = randn(1, 9, 2, 16, seed=0).to(HALF)  # a mean of values stays within them
    value = torch.full((1, 9, 2, 16), 60000.0, dtype=HALF)
    torch.testing.assert_close(ops.attention(weights, weights, value), value)


def test_a_mask_in_float16_is_added(kernels):
    query = randn(1, 9, 2, 16, seed=0).to(HALF)
    mask = randn(9, 9, seed=1).to(HALF)
    assert torch.equal(
        ops.attention(query, query, query, mask=mask),
        ops.attention(query, query, query, mask=mask.float()),
    )


def test_autocast_computes_in_float16(kernels):
    weight = randn(8, 16, seed=1).requires_grad_()
    with torch.autocast(weight.device.type, dtype=HALF):
        y = ops.ffn(randn(3, 16, seed=0), weight, weight.t().contiguous())
        tokens = ops.embedding(torch.tensor([1, 3]), weight)
    assert y.dtype == tokens.dtype == HALF
    assert torch.equal(tokens, weight.detach()[[1, 3]].to(HALF))
    y.float().sum().backward()
    assert weight.grad.dtype == torch.float32


def test_opcheck_and_compile(kernels):
    x, weight = (randn(*s, seed=0).to(HALF).requires_grad_() for s in ((5, 8), (8,)))
    torch.library.opcheck(torch.ops.fusedlm.rms_norm.default, (x, weight, x, 1e-6))
    compiled = torch.compile(lambda x: ops.rms_norm(x, weight), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), ops.rms_norm(x, weight))
