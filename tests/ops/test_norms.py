"""RMSNorm and layer norm against float64, on every instruction set."""

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

NORMS = ["rms_norm", "layer_norm", "layer_norm without bias"]
SHAPES = [
    (1, 1),
    (3, 17),
    (17, 3),
    (113, 65),
    (5, 1023),
    (70, 1025),
    (2, 3, 33),
    (530, 64),
    (3, 1032),
    (2, 8200),
]


def call(module, norm: str):
    def run(t):
        residual = t.get("residual")
        if norm == "rms_norm":
            return module.rms_norm(t["x"], t["weight"], residual=residual)
        return module.layer_norm(t["x"], t["weight"], t.get("bias"), residual=residual)

    return run


def inputs(norm: str, shape, residual: bool):
    C = shape[-1]
    named = {"x": randn(*shape, seed=0) + 0.5, "weight": randn(C, seed=1)}
    if norm == "layer_norm":
        named["bias"] = randn(C, seed=2)
    if residual:
        named["residual"] = randn(*shape, seed=3)
    return named


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_equals_float64(isa, norm, shape, dtype):
    if norm != "rms_norm" and shape[-1] == 1:
        pytest.skip("a single element has no variance: the result is 0 / sqrt(eps)")
    assert_equals_float64(
        call(ops, norm),
        call(reference, norm),
        inputs(norm, shape, False),
        [randn(*shape, seed=9)],
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arrives", ["at both", "at the norm", "at the sum"])
@pytest.mark.parametrize("norm", NORMS)
def test_with_residual_equals_float64(isa, norm, arrives, dtype):
    shape = (37, 129)
    grads = [randn(*shape, seed=8), randn(*shape, seed=9)]
    if arrives == "at the norm":
        grads[1] = None
    if arrives == "at the sum":
        named = inputs(norm, shape, True)
        leaves = {k: v.to(dtype).requires_grad_() for k, v in named.items()}
        _, total = call(ops, norm)(leaves)
        total.backward(grads[1].to(dtype))
        assert torch.equal(leaves["x"].grad, grads[1].to(dtype))
        assert torch.equal(leaves["residual"].grad, grads[1].to(dtype))
        return
    assert_equals_float64(
        call(ops, norm), call(reference, norm), inputs(norm, shape, True), grads, dtype
    )


@pytest.mark.parametrize("norm", NORMS)
def test_large_and_tiny_values(isa, norm):
    for scale in (1e-6, 1e4):
        named = inputs(norm, (9, 77), False)
        named["x"] = named["x"] * scale
        assert_equals_float64(
            call(ops, norm), call(reference, norm), named, [randn(9, 77, seed=9)], torch.float32
        )
    zeros = call(ops, norm)({**inputs(norm, (2, 7), False), "x": torch.zeros(2, 7)})
    assert torch.isfinite(zeros).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_mean_far_from_zero_does_not_cancel(isa, norm):
    named = inputs(norm, (9, 300), False)
    named["x"] = named["x"] + 1000.0
    assert_equals_float64(
        call(ops, norm), call(reference, norm), named, [randn(9, 300, seed=9)], torch.float32
    )


@pytest.mark.parametrize("C", [17, 1023])
@pytest.mark.parametrize("value", [1.25e8, 1e30, 2e36, 1e38])
def test_layer_norm_of_equal_values_has_no_variance_however_large_they_are(isa, value, C):
    x = torch.full((2, C), value).requires_grad_()
    weight, bias, dy = randn(C, seed=1), randn(C, seed=2), randn(2, C, seed=9)
    out = ops.layer_norm(x, weight, bias)
    out.backward(dy)
    assert torch.equal(out, bias.expand(2, C))
    g = dy * weight
    torch.testing.assert_close(x.grad, (g - g.mean(1, keepdim=True)) * 1e5**0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e18, 1e25, 1e30, 1e37])
def test_layer_norm_of_values_whose_squares_are_beyond_float32(isa, scale, dtype):
    named = inputs("layer_norm", (3, 77), False)
    named["x"] = named["x"] * scale
    named = {k: v.to(dtype) for k, v in named.items()}
    out = call(ops, "layer_norm")(named)
    exact = call(reference, "layer_norm")({k: v.double() for k, v in named.items()})
    torch.testing.assert_close(out, exact.to(dtype))


@pytest.mark.parametrize("norm", NORMS)
def test_nan_spoils_its_row_only(isa, norm):
    named = inputs(norm, (3, 40), False)
    named["x"][1, 5] = float("nan")
    out = call(ops, norm)(named)
    assert out[1].isnan().all() and torch.isfinite(out[[0, 2]]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_same_bits_for_any_number_of_threads(isa, norm, dtype):
    named, grad = inputs(norm, (400, 65), False), randn(400, 65, seed=9)
    assert_same_bits(
        results_by_threads(
            lambda: list(outputs_and_gradients(call(ops, norm), named, [grad], dtype).values())
        )
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_large_results_go_around_the_caches_unchanged_for_any_number_of_threads(isa, norm, dtype):
    if isa in ON_GPU:
        pytest.skip("a way of the CPU's kernels")
    shape = (2100, 1024)  # 4 MiB of bfloat16 and more
    named, grads = inputs(norm, shape, True), [randn(*shape, seed=s) for s in (8, 9)]
    results = results_by_threads(
        lambda: outputs_and_gradients(call(ops, norm), named, grads, dtype)
    )
    assert_same_bits([list(found.values()) for found in results])
    rows = slice(0, 64)
    few = {name: t[rows] if t.dim() > 1 else t for name, t in named.items()}
    small = outputs_and_gradients(call(ops, norm), few, [g[rows] for g in grads], dtype)
    for name, found in small.items():
        if found.dim() > 1:
            assert torch.equal(results[0][name][rows], found), name


@pytest.mark.parametrize("norm", NORMS)
def test_float32_weights_serve_bfloat16_activations(isa, norm):
    named = inputs(norm, (6, 32), False)
    parameters = {k: v.requires_grad_() for k, v in named.items() if k != "x"}
    out = call(ops, norm)({**parameters, "x": named["x"].bfloat16()})
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 for p in parameters.values())


@pytest.mark.parametrize("norm", NORMS)
def test_strided_input_equals_its_copy(isa, norm):
    wide = randn(6, 8, 96, seed=0)
    named = inputs(norm, (1, 32), False)
    for view in (
        wide[..., 32:64],
        wide.transpose(0, 1)[..., :32],
        wide[:, ::2, 1:33],
        wide[..., ::3],
    ):
        out = call(ops, norm)({**named, "x": view})
        copied = call(ops, norm)({**named, "x": view.contiguous()})
        if isa in ON_GPU and view.storage_offset() % 4:
            torch.testing.assert_close(out, copied)  # read one by one, hence added in another order
        else:
            assert torch.equal(out, copied)


@pytest.mark.parametrize("norm", NORMS)
def test_empty_batch(isa, norm):
    named = {k: v.requires_grad_() for k, v in inputs(norm, (0, 8), False).items()}
    out = call(ops, norm)(named)
    out.sum().backward()
    assert out.shape == (0, 8) and not named["weight"].grad.any()
    assert "bias" not in named or not named["bias"].grad.any()


@pytest.mark.parametrize("norm", ["rms_norm", "layer_norm"])
def test_bad_arguments_are_named(norm):
    function = getattr(ops, norm)
    x, weight = torch.ones(3, 8), torch.ones(8)
    with pytest.raises(ValueError, match=rf"{norm}: weight has shape \[7\], expected 8"):
        function(x, torch.ones(7))
    with pytest.raises(ValueError, match=f"{norm}: x has dtype float64"):
        function(x.double(), weight)
    with pytest.raises(ValueError, match=f"{norm}: residual"):
        function(x, weight, residual=torch.ones(2, 8))
    with pytest.raises(ValueError, match=f"{norm}: residual has dtype bfloat16"):
        function(x, weight, residual=x.bfloat16())
    with pytest.raises(ValueError, match="expected C > 0"):
        function(torch.ones(3, 0), torch.ones(0))
    with pytest.raises(
        ValueError, match=f"{norm}: tensors are on cpu and meta, expected one device"
    ):
        function(x, weight.to("meta"))


def test_opcheck_compile_functional_call_and_autocast():
    x, residual = randn(5, 8, seed=0).requires_grad_(), randn(5, 8, seed=1).requires_grad_()
    weight, bias = randn(8, seed=2).requires_grad_(), randn(8, seed=3).requires_grad_()
    torch.library.opcheck(torch.ops.fusedlm.rms_norm.default, (x, weight, residual, 1e-6))
    torch.library.opcheck(torch.ops.fusedlm.layer_norm.default, (x, weight, bias, residual, 1e-5))

    def model(x):
        y, total = ops.layer_norm(x, weight, bias, residual=residual)
        return ops.rms_norm(y, weight).sum() + total.sum()

    assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))

    module = torch.nn.RMSNorm(8)
    module.forward = lambda x: ops.rms_norm(x, module.weight)
    called = torch.func.functional_call(module, {"weight": weight}, (x,))
    assert torch.equal(called, ops.rms_norm(x, weight))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.layer_norm(x, weight, bias).dtype == torch.bfloat16
        assert ops.rms_norm(x, weight).dtype == torch.bfloat16
