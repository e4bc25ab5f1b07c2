"""Linear + cross-entropy against float64, on every instruction set."""

from __future__ import annotations

import pytest
import torch

from fusedlm import ops
from tests.support import reference
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.compare import assert_same_bits, randn, results_by_threads
from tests.support.dtypes import DTYPES
from tests.support.gpu import ON_GPU


def problem(N, C, V, dtype):
    x, weight = randn(N, C, seed=0).to(dtype), randn(V, C, seed=1).to(dtype) * C**-0.5
    targets = (randn(N, seed=2) * 1e6).long() % V
    return x, weight, randn(V, seed=3).to(dtype), targets


def run(function, x, weight, bias, targets, dtype, dloss=None, **options):
    leaves = [
        None if t is None else t.to(dtype).clone().requires_grad_() for t in (x, weight, bias)
    ]
    loss = function(leaves[0], leaves[1], targets, bias=leaves[2], **options)
    loss.backward(None if dloss is None else dloss.to(loss.dtype))
    return [loss.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]


def compare(x, weight, bias, targets, dtype, **options):
    arguments = x, weight, bias, targets
    ours = run(ops.linear_cross_entropy, *arguments, dtype, **options)
    plain = run(reference.linear_cross_entropy, *arguments, dtype, **options)
    exact = run(reference.linear_cross_entropy, *arguments, torch.float64, **options)
    assert ours[0].dtype == torch.float32
    for name, a, b, c in zip(("loss", "dx", "dweight", "dbias"), ours, plain, exact, strict=False):
        assert_as_accurate_as_torch(a, b, c, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 17, 5), (17, 33, 113), (113, 64, 1023), (130, 48, 1025), (40, 72, 320)]
)
def test_equals_float64(isa, shape, dtype):
    x, weight, _, targets = problem(*shape, dtype)
    compare(x, weight, None, targets, dtype)


FLAGS = {  # made by the tests: on a GPU, tensors are there
    "sum": lambda: {"reduction": "sum"},
    "smoothing": lambda: {"label_smoothing": 0.1},
    "z-loss": lambda: {"z_loss": 0.01},
    "softcap": lambda: {"softcap": 1.5},
    "weights": lambda: {"class_weight": randn(77, seed=4).abs() + 0.1},
    "everything": lambda: {
        "label_smoothing": 0.2, "z_loss": 0.02, "softcap": 2.0, "ignore_index": 3, "reduction": "sum",
        "class_weight": randn(77, seed=4).abs() + 0.1,
    },
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_with_flags_equals_float64(isa, flags, dtype):
    x, weight, bias, targets = problem(60, 33, 77, dtype)
    flags = flags()
    targets[::4] = flags.get("ignore_index", -100)
    compare(x, weight, bias, targets, dtype, **flags)


@pytest.mark.parametrize("dtype", DTYPES)
def test_reduction_none_takes_a_gradient_for_each_row(isa, dtype):
    x, weight, bias, targets = problem(40, 33, 77, dtype)
    targets[5] = -100
    shaped = x.view(4, 10, 33), weight, bias, targets.view(4, 10)
    compare(*shaped, dtype, reduction="none", dloss=randn(4, 10, seed=9), label_smoothing=0.1)


def test_the_gradient_arriving_at_the_loss_scales_all(isa):
    x, weight, bias, targets = problem(20, 16, 30, torch.float32)
    once = run(ops.linear_cross_entropy, x, weight, bias, targets, torch.float32)
    half = run(ops.linear_cross_entropy, x, weight, bias, targets, torch.float32, torch.tensor(0.5))
    for a, b in zip(once[1:], half[1:], strict=True):
        assert torch.equal(a * 0.5, b)


def test_chunks_of_rows_add_up(isa):
    # 1500 rows of 20,000 logits are 114 MiB, more than one chunk; under the emulator 160 of 200 are.
    N, V = (160, 200) if isa == "simt" else (1500, 20000)
    compare(*problem(N, 8, V, torch.float32), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_number_of_threads(isa, dtype):
    arguments = problem(150, 40, 321, dtype)
    results = results_by_threads(lambda: run(ops.linear_cross_entropy, *arguments, dtype))
    assert_same_bits(results)


@pytest.mark.parametrize(
    ("dtype", "weight_dtype"),
    [
        (torch.bfloat16, torch.float32),  # the logits lie at the end of the weight's gradient
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float32),
    ],
    ids=str,
)
def test_slabs_of_the_vocabulary_add_up_the_same_for_any_number_of_threads(
    isa, dtype, weight_dtype
):
    if isa in ON_GPU:
        pytest.skip("slabs are a way of the CPU's kernels")
    x, weight, _, targets = problem(40, 96, 7000, torch.float32)  # three slabs of 3,072 columns
    given = x.to(dtype), weight.to(weight_dtype)

    def results(function, exact=False):
        leaves = [(t.double() if exact else t).clone().requires_grad_() for t in given]
        x, weight = leaves
        plain = function is reference.linear_cross_entropy
        loss = function(x, weight.to(x.dtype) if plain else weight, targets)  # as autocast does
        loss.backward()
        return [loss.detach(), *(leaf.grad for leaf in leaves)]

    ours = results_by_threads(lambda: results(ops.linear_cross_entropy))
    assert_same_bits(ours)
    plain = results(reference.linear_cross_entropy)
    exact = results(reference.linear_cross_entropy, exact=True)
    for name, a, b, c in zip(("loss", "dx", "dweight"), ours[0], plain, exact, strict=True):
        assert_as_accurate_as_torch(a, b, c, name)


def test_large_logits_stay_finite(isa):
    x, weight = torch.eye(3) * 1e4, torch.tensor([[1.0, 0, 0], [0, -1.0, 0], [0, 0, 1.0]])
    targets = torch.tensor([0, 1, 0])
    loss = ops.linear_cross_entropy(x, weight, targets, reduction="none")
    torch.testing.assert_close(
        loss, reference.linear_cross_entropy(x, weight, targets, reduction="none")
    )


def test_nan_shows_in_the_loss(isa):
    for V in (3, 16, 35):
        x = torch.tensor([[float("nan")], [1.0]])
        loss = ops.linear_cross_entropy(
            x, torch.ones(V, 1), torch.zeros(2).long(), reduction="none"
        )
        assert loss[0].isnan() and loss[1].isfinite()


def test_rows_that_do_not_count_have_no_gradient(isa):
    x, weight, bias, targets = problem(10, 8, 6, torch.float32)
    targets[:] = -100
    loss, *grads = run(
        ops.linear_cross_entropy, x, weight, bias, targets, torch.float32, reduction="sum"
    )
    assert loss == 0 and not any(g.any() for g in grads)
    assert ops.linear_cross_entropy(x, weight, targets).isnan()  # a mean over nothing, as in torch
    empty = x[:0].clone().requires_grad_(), weight.clone().requires_grad_()
    ops.linear_cross_entropy(*empty, targets[:0], reduction="sum").backward()
    assert torch.equal(empty[1].grad, torch.zeros(6, 8))


def test_only_wanted_gradients_are_computed(isa):
    x, weight, _, targets = problem(10, 8, 6, torch.float32)
    expected = run(ops.linear_cross_entropy, x, weight, None, targets, torch.float32)
    x.requires_grad_()
    ops.linear_cross_entropy(x, weight, targets).backward()
    assert torch.equal(x.grad, expected[1]) and weight.grad is None


def test_bad_arguments_are_named():
    x, weight, bias, targets = problem(10, 8, 6, torch.float32)
    wrong = targets.clone()
    wrong[4] = 6
    with pytest.raises(
        ValueError, match=r"targets\[4\] is 6, expected 0 to 5 or ignore_index -100"
    ):
        ops.linear_cross_entropy(x, weight, wrong)
    with pytest.raises(ValueError, match=r"targets has shape \[9\]"):
        ops.linear_cross_entropy(x, weight, targets[:9])
    with pytest.raises(ValueError, match="targets has dtype int32"):
        ops.linear_cross_entropy(x, weight, targets.int())
    with pytest.raises(ValueError, match="weight has shape"):
        ops.linear_cross_entropy(x[:, :5], weight, targets)
    with pytest.raises(ValueError, match="linear_cross_entropy: bias"):
        ops.linear_cross_entropy(x, weight, targets, bias=bias[:3])
    with pytest.raises(ValueError, match="class_weight"):
        ops.linear_cross_entropy(x, weight, targets, class_weight=torch.ones(5))
    with pytest.raises(ValueError, match="reduction is 'average'"):
        ops.linear_cross_entropy(x, weight, targets, reduction="average")
    with pytest.raises(ValueError, match="label_smoothing is 2"):
        ops.linear_cross_entropy(x, weight, targets, label_smoothing=2.0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_opcheck_compile_and_autocast(reduction):
    x, weight, bias, targets = problem(6, 8, 10, torch.float32)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    torch.library.opcheck(
        torch.ops.fusedlm.linear_cross_entropy.default,
        (*leaves, targets, None, reduction, -100, 0.1, 0.0, 0.0, True, True, True),
    )

    def loss(x):
        return ops.linear_cross_entropy(x, weight, targets, bias=bias, reduction=reduction).sum()

    assert torch.equal(torch.compile(loss, fullgraph=True, backend="aot_eager")(x), loss(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss(x).backward()
    assert x.grad.dtype == torch.float32


def test_functional_call(kernels):
    x, weight, _, targets = problem(6, 8, 10, torch.float32)
    module = torch.nn.Linear(8, 10, bias=False)
    module.forward = lambda x: ops.linear_cross_entropy(x, module.weight, targets)
    expected = run(ops.linear_cross_entropy, x, weight, None, targets, torch.float32)
    leaf = weight.requires_grad_()
    loss = torch.func.functional_call(module, {"weight": leaf}, (x,))
    loss.backward()
    assert torch.equal(loss, expected[0]) and torch.equal(leaf.grad, expected[2])
