"""Token and position embedding against float64, on every instruction set."""

from __future__ import annotations

import importlib

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
from tests.support.dtypes import DTYPES, HALVES


def tokens_of(*shape: int, V: int, seed: int = 0) -> torch.Tensor:
    return (randn(*shape, seed=seed) * 1e6).long() % V


def call(module, tokens, **options):
    return lambda t: module.embedding(
        tokens, t["weight"], position_weight=t.get("position_weight"), **options
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1), (3, 17, 5, 33), (2, 113, 1025, 17), (4, 300, 9, 65),
        # Rows in 16-byte packs: a warp's, runs over many pieces, a block's, and beyond registers.
        (2, 40, 700, 72), (3, 100, 3, 264), (1, 5, 3, 2056), (1, 3, 2, 8200),
    ],
)  # fmt: skip
@pytest.mark.parametrize("positions", ["none", "counted", "given"])
def test_equals_float64(isa, shape, positions, dtype):
    B, T, V, C = shape
    named, options = {"weight": randn(V, C, seed=1)}, {}
    if positions != "none":
        named["position_weight"] = randn(T + 2, C, seed=2)
    if positions == "given":
        options["positions"] = tokens_of(B, T, V=T + 2, seed=3)
    tokens = tokens_of(B, T, V=V)
    assert_equals_float64(
        call(ops, tokens, **options),
        call(reference, tokens, **options),
        named,
        [randn(B, T, C, seed=4)],
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_padding_token_gets_no_gradient(isa, dtype):
    tokens = tokens_of(4, 30, V=6)
    named, grad = {"weight": randn(6, 20, seed=1)}, [randn(4, 30, 20, seed=2)]
    options = {"padding_idx": 2}
    assert_equals_float64(
        call(ops, tokens, **options), call(reference, tokens, **options), named, grad, dtype
    )
    got = outputs_and_gradients(call(ops, tokens, **options), named, grad, dtype)
    assert not got["dweight"][2].any() and got["dweight"][1].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_number_of_threads(isa, dtype):
    # Few tokens, many times each: the order of the sums shows.
    tokens = tokens_of(4, 500, V=3)
    named = {"weight": randn(3, 40, seed=1), "position_weight": randn(500, 40, seed=2)}
    grad = [randn(4, 500, 40, seed=3)]
    assert_same_bits(
        results_by_threads(
            lambda: list(outputs_and_gradients(call(ops, tokens), named, grad, dtype).values())
        )
    )


@pytest.mark.parametrize("C", [8, 9])
@pytest.mark.parametrize(
    "dtypes", [(torch.float32, d) for d in HALVES] + [(d, torch.float32) for d in HALVES]
)
def test_output_dtype_may_differ_from_the_weights(isa, dtypes, C):
    weight = randn(5, C, seed=0).to(dtypes[0]).requires_grad_()
    tokens = torch.tensor([0, 4, 2, 3])
    out = ops.embedding(tokens, weight, dtype=dtypes[1])
    assert torch.equal(out, weight.detach()[tokens].to(dtypes[1]))
    dout = randn(4, C, seed=1).to(dtypes[1])
    out.backward(dout)
    assert weight.grad.dtype == dtypes[0] and not weight.grad[1].any()
    assert torch.equal(weight.grad[tokens], dout.to(dtypes[0]))


def test_any_shape_and_strides_of_tokens(isa):
    weight = randn(9, 4, seed=0)
    grid = tokens_of(6, 8, V=9)
    assert torch.equal(ops.embedding(grid.t(), weight), weight[grid.t()])
    assert torch.equal(ops.embedding(grid[:, ::2], weight), weight[grid[:, ::2]])
    assert ops.embedding(torch.tensor(3), weight).shape == (4,)


@pytest.mark.parametrize("V", [512, 300_000])
def test_a_large_vocabulary_gets_each_gradient_in_its_row(isa, V):
    # On the GPU tokens are sorted by 9 bits at a time: two passes and three.
    tokens = torch.cat([tokens_of(1500, V=V), torch.tensor([0, V - 1, V - 2, V - 1])])
    dout = (randn(1504, 4, seed=1) * 4).round()  # whole: their sums have no order
    weight = torch.zeros(V, 4, requires_grad=True)
    ops.embedding(tokens, weight, padding_idx=-2).backward(dout)
    expected = torch.zeros(V, 4).index_add_(0, tokens, dout)
    expected[V - 2] = 0
    assert torch.equal(weight.grad, expected)


def test_empty_batch(isa):
    weight = randn(5, 8, seed=0).requires_grad_()
    out = ops.embedding(torch.empty(2, 0, dtype=torch.int64), weight)
    out.sum().backward()
    assert out.shape == (2, 0, 8) and not weight.grad.any()


def test_sparse_gradient_leaves_out_tokens_of_no_row():
    """On a GPU the forward lets them pass."""
    tokens, dout = torch.tensor([3, -1, 5, 2**40, 0, 3, -(2**40)]), randn(7, 4, seed=0)
    module = importlib.import_module(
        "fusedlm.ops.embedding"
    )  # the package has the function by this name
    sparse = module._sparse_gradient(dout, tokens, 5, -1, torch.float32)
    wanted = torch.zeros(5, 4).index_add_(0, tokens[[0, 4, 5]], dout[[0, 4, 5]])
    torch.testing.assert_close(sparse.to_dense(), wanted)


@pytest.mark.parametrize("padding_idx", [None, 1])
def test_sparse_gradient_equals_the_dense_one_and_joins_it(kernels, padding_idx):
    weight, tokens = randn(9, 8, seed=0).requires_grad_(), torch.tensor([[1, 4, 4], [7, 1, 4]])
    dout = randn(2, 3, 8, seed=1)

    def grad(extra: bool, sparse: bool):
        out = ops.embedding(tokens, weight, padding_idx=padding_idx, sparse_grad=sparse)
        loss = (out * dout).sum() + (weight.square().sum() if extra else 0.0)
        return torch.autograd.grad(loss, weight)[0]

    assert grad(False, True).is_sparse
    assert torch.equal(grad(False, True).to_dense(), grad(False, False))
    assert not grad(True, True).is_sparse and torch.equal(grad(True, True), grad(True, False))


def tied_gradients(tie, backwards: int = 1) -> torch.Tensor:
    weight, tokens = randn(9, 8, seed=0).requires_grad_(), torch.tensor([[1, 4, 4], [7, 1, 4]])
    table, head = tie(weight)
    x = ops.embedding(tokens, table, sparse_grad=tie is ops.tied)
    loss = ops.linear_cross_entropy(x, head, tokens.flip(1))
    for _ in range(backwards):
        loss.backward(retain_graph=backwards > 1)
    return weight.grad


@pytest.mark.parametrize("backwards", [1, 2])
def test_a_tied_weight_gets_the_sum_of_both_gradients(kernels, backwards):
    """Twice through a graph that is kept: what the loss keeps must not have been added into."""
    got, plain = (tied_gradients(tie, backwards) for tie in (ops.tied, lambda w: (w, w)))
    assert torch.allclose(got, plain, rtol=1e-6, atol=1e-7)


def test_a_tied_weight_gets_no_second_gradient_of_its_size(kernels):
    weight, tokens = torch.zeros(4096, 128, requires_grad=True), torch.tensor([[1, 4, 4]])
    table, head = ops.tied(weight)
    loss = ops.linear_cross_entropy(ops.embedding(tokens, table, sparse_grad=True), head, tokens)
    written = []
    loss.grad_fn.register_hook(lambda inputs, _: written.append(inputs[1].data_ptr()))
    loss.backward()
    assert weight.grad.data_ptr() == written[0]


def test_bad_arguments_are_named():
    weight, tokens = torch.ones(5, 8), torch.tensor([[0, 4], [5, 1]])
    with pytest.raises(ValueError, match=r"tokens has 5 at \[2\], expected 0 <= id < V = 5"):
        ops.embedding(tokens, weight)
    with pytest.raises(ValueError, match=r"tokens has -1 at \[0\], expected 0 <= id < V = 5"):
        ops.embedding(tokens - 1, weight[:5].clone())
    good = tokens.clamp_max(4)
    with pytest.raises(ValueError, match="embedding: tokens has dtype int32"):
        ops.embedding(good.int(), weight)
    with pytest.raises(ValueError, match="embedding: weight has dtype float64"):
        ops.embedding(good, weight.double())
    with pytest.raises(ValueError, match="position"):
        ops.embedding(good, weight, position_weight=torch.ones(1, 8))
    with pytest.raises(
        ValueError, match=r"positions has shape \[3\], expected one that broadcasts"
    ):
        ops.embedding(good, weight, position_weight=torch.ones(4, 8), positions=torch.arange(3))
    with pytest.raises(ValueError, match="position_weight"):
        ops.embedding(good, weight, position_weight=torch.ones(4, 7))
    with pytest.raises(ValueError, match="position"):
        ops.embedding(
            good, weight, position_weight=torch.ones(4, 8), positions=torch.tensor([0, 9])
        )


def test_opcheck_compile_and_autocast():
    weight, position_weight = (randn(5, 8, seed=i).requires_grad_() for i in range(2))
    tokens = tokens_of(2, 4, V=5)

    def model(weight):
        return ops.embedding(tokens, weight, position_weight=position_weight, padding_idx=1).sum()

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(weight), model(weight))
