"""Linear layer and feed-forward block against float64, on every instruction set."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fusedlm import ops
from tests.support import reference
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.compare import assert_same_bits, randn, results_by_threads
from tests.support.dtypes import DTYPES
from tests.support.gpu import ON_GPU

# (N, K, O): ragged, single, and past the blocks of the packed product; then whole packs of a GPU's
# wide accesses, in tiles of either size with K in one piece and in several.
SHAPES = [(1, 1, 1), (3, 17, 5), (17, 113, 65), (113, 1023, 97), (130, 33, 1025), (5, 3500, 40)]
SHAPES += [(64, 128, 192), (8, 512, 64), (136, 264, 200), (72, 520, 80)]


def run(function, inputs: dict, grad: torch.Tensor, dtype: torch.dtype, **options):
    """Output and the gradient of every input, all computed in `dtype`."""
    leaves = {name: t.to(dtype).detach().clone().requires_grad_() for name, t in inputs.items()}
    out = function(leaves, **options)
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves.values())]


def compare(ours, theirs, inputs, grad, dtype):
    rounded = {name: t.to(dtype) for name, t in inputs.items()}
    grad = grad.to(dtype)
    got = run(ours, rounded, grad, dtype)
    plain = run(theirs, rounded, grad, dtype)
    exact = run(theirs, rounded, grad, torch.float64)
    for name, a, b, c in zip(["out", *inputs], got, plain, exact, strict=True):
        assert_as_accurate_as_torch(a, b, c, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_linear_equals_float64(isa, shape, dtype):
    N, K, outputs = shape
    inputs = {"x": randn(N, K, seed=0), "weight": randn(outputs, K, seed=1, scale=K**-0.5)}
    compare(
        lambda t: ops.linear(t["x"], t["weight"]),
        lambda t: reference.linear(t["x"], t["weight"]),
        inputs,
        randn(N, outputs, seed=2),
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, "relu", "gelu", "gelu_tanh", "silu"])
def test_linear_with_everything_fused_equals_float64(isa, activation, dtype):
    inputs = {
        "x": randn(2, 19, 33, seed=0),
        "weight": randn(70, 33, seed=1, scale=0.3),
        "bias": randn(70, seed=2),
        "residual": randn(2, 19, 70, seed=3),
    }

    def call(module):
        return lambda t: module.linear(
            t["x"], t["weight"], t["bias"], activation=activation, residual=t["residual"]
        )

    compare(call(ops), call(reference), inputs, randn(2, 19, 70, seed=4), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "swiglu", "geglu"])
@pytest.mark.parametrize("sizes", [(37, 101, 53), (96, 136, 80)], ids=["ragged", "whole"])
def test_ffn_equals_float64(isa, sizes, activation, bias, dtype):
    C, F, N = sizes
    inputs = {
        "x": randn(N, C, seed=0),
        "up_weight": randn(F, C, seed=1, scale=C**-0.5),
        "down_weight": randn(C, F, seed=2, scale=F**-0.5),
        "residual": randn(N, C, seed=3),
    }
    if activation in ("swiglu", "geglu"):
        inputs["gate_weight"] = randn(F, C, seed=4, scale=C**-0.5)
        if bias:
            inputs["gate_bias"] = randn(F, seed=5)
    if bias:
        inputs["up_bias"] = randn(F, seed=6)
        inputs["down_bias"] = randn(C, seed=7)

    def call(module):
        return lambda t: module.ffn(
            t["x"],
            t["up_weight"],
            t["down_weight"],
            activation=activation,
            **{k: v for k, v in t.items() if k not in ("x", "up_weight", "down_weight")},
        )

    compare(call(ops), call(reference), inputs, randn(N, C, seed=8), dtype)


def test_float32_weights_serve_bfloat16_activations(isa):
    x, weight = randn(40, 64, seed=0).bfloat16(), randn(48, 64, seed=1).requires_grad_()
    y = ops.linear(x, weight)
    assert y.dtype == torch.bfloat16
    if isa in ("avx512_bf16", *ON_GPU):  # these multiply bfloat16, which rounds the weight
        assert torch.equal(y, ops.linear(x, weight.bfloat16()))
    else:
        assert torch.equal(y, ops.linear(x.float(), weight).bfloat16())
    y.sum().backward()
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_input_equals_its_copy(isa, dtype):
    wide = randn(7, 30, 3 * 24, seed=0).to(dtype)
    weight = randn(16, 24, seed=1).to(dtype)
    for view in (wide[..., 24:48], wide.transpose(0, 1)[..., :24], wide[:, ::2, :24]):
        assert torch.equal(ops.linear(view, weight), ops.linear(view.contiguous(), weight))
    columns = randn(24, 40, seed=2).to(dtype).t()
    assert torch.equal(ops.linear(columns, weight), ops.linear(columns.contiguous(), weight))


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_number_of_threads(isa, dtype):
    x, weight = randn(300, 97, seed=0).to(dtype), randn(130, 97, seed=1).to(dtype)
    down, gate = randn(97, 130, seed=2).to(dtype), randn(130, 97, seed=3).to(dtype)
    calls = {
        "gelu": lambda x, up, down, gate: ops.ffn(x, up, down, activation="gelu"),
        "swiglu": lambda x, up, down, gate: ops.ffn(
            x, up, down, gate_weight=gate, activation="swiglu", residual=x
        ),
        "linear": lambda x, up, down, gate: ops.linear(
            ops.linear(x, up, activation="gelu"), down, residual=x
        ),
    }

    if isa in ON_GPU:  # whose kernels have no other order of sums for other activations
        calls = {"gelu": calls["gelu"]}

    def results():
        found = []
        for call in calls.values():
            leaves = [t.clone().requires_grad_() for t in (x, weight, down, gate)]
            y = call(*leaves)
            y.float().square().sum().backward()
            found += [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]
        return found

    assert_same_bits(results_by_threads(results))


def test_swiglu_keeps_half_of_the_activations_that_plain_torch_keeps(isa):
    """Both preactivations and x: what the two products computed is not kept."""
    N, C, width = 33, 24, 64
    x, up, gate = randn(N, C, seed=0), randn(width, C, seed=1), randn(width, C, seed=2)
    down = randn(C, width, seed=3)
    leaves = [t.requires_grad_() for t in (x, up, down, gate)]

    def kept(call) -> int:
        parts = {}

        def pack(t):
            if not any(t.data_ptr() == w.data_ptr() for w in leaves[1:]):
                parts[t.data_ptr()] = t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            call()
        return sum(parts.values())

    ours = kept(lambda: ops.ffn(x, up, down, gate_weight=gate, activation="swiglu"))
    plain = kept(lambda: F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down))
    assert ours == N * (C + 2 * width)
    assert plain == N * (C + 4 * width)


@pytest.mark.parametrize("shape", [(0, 8), (2, 0, 8)])
def test_empty_batch_gives_zero_gradients(isa, shape):
    x = torch.empty(shape, requires_grad=True)
    weight = torch.ones(4, 8, requires_grad=True)
    y = ops.linear(x, weight)
    assert y.shape == (*shape[:-1], 4)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert torch.equal(weight.grad, torch.zeros(4, 8))


def test_nan_and_infinity_pass_through(isa):
    x = torch.tensor([[float("nan"), 1.0], [float("inf"), 1.0], [1e30, 1.0]])
    y = ops.linear(x, torch.eye(2), activation="gelu")
    assert y[0].isnan().any()
    assert y[1, 0] == float("inf")
    assert y[2, 0] == 1e30


def test_bad_arguments_are_named():
    x, weight = torch.ones(3, 8), torch.ones(5, 8)
    with pytest.raises(ValueError, match=r"linear: weight has shape \[5, 8\], expected 7"):
        ops.linear(torch.ones(3, 7), weight)
    with pytest.raises(ValueError, match="linear: bias"):
        ops.linear(x, weight, torch.ones(4))
    with pytest.raises(ValueError, match="linear: x has dtype float64"):
        ops.linear(x.double(), weight)
    with pytest.raises(ValueError, match="linear: residual"):
        ops.linear(x, weight, residual=torch.ones(3, 4))
    with pytest.raises(ValueError, match="activation is 'tanh'"):
        ops.linear(x, weight, activation="tanh")
    with pytest.raises(ValueError, match="needs gate_weight"):
        ops.ffn(x, weight, weight.t(), activation="swiglu")
    with pytest.raises(ValueError, match="ffn: down_weight"):
        ops.ffn(x, weight, weight)


def test_opcheck_and_compile():
    x = randn(6, 8, seed=0).requires_grad_()
    up = randn(10, 8, seed=1).requires_grad_()
    down = randn(8, 10, seed=2).requires_grad_()
    bias = randn(10, seed=3).requires_grad_()
    torch.library.opcheck(torch.ops.fusedlm.linear.default, (x, up, bias, None, "gelu", x.dtype))
    torch.library.opcheck(
        torch.ops.fusedlm.ffn.default, (x, up, bias, up, None, down, None, x, "silu", x.dtype)
    )

    def model(x):
        h = ops.linear(x, up, bias, activation="relu")
        return ops.ffn(ops.linear(h, down), up, down, activation="gelu").sum()

    assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))


def test_autocast_computes_in_bfloat16():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.linear(torch.ones(2, 8), torch.ones(4, 8)).dtype == torch.bfloat16


@pytest.mark.parametrize("rows", [37, 3100])  # one block of the sum, and several
def test_weights_that_ask_for_bfloat16_gradients_get_them_rounded_once(kernels, rows):
    def gradients(dtype):
        up, down, plain = (
            randn(*s, seed=i).requires_grad_() for i, s in enumerate([(24, 16), (16, 24), (16, 16)])
        )
        for weight in (up, down, plain):
            weight.grad_dtype = dtype
        x = randn(rows, 16, seed=5).to(torch.bfloat16)
        ops.ffn(ops.linear(x, plain), up, down).backward(randn(rows, 16, seed=6).to(torch.bfloat16))
        return [up.grad, down.grad, plain.grad]

    for rounded, wide in zip(gradients(torch.bfloat16), gradients(torch.float32), strict=True):
        assert rounded.dtype == torch.bfloat16 and wide.dtype == torch.float32
        assert torch.equal(rounded, wide.to(torch.bfloat16))


def test_ffn_without_columns_and_units_gives_no_columns(isa):
    x, up, down = (torch.zeros(*shape, requires_grad=True) for shape in ((3, 0), (0, 0), (0, 0)))
    y = ops.ffn(x, up, down)
    y.sum().backward()
    assert y.shape == x.grad.shape == (3, 0)
