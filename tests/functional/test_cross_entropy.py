"""cross_entropy and linear_cross_entropy with torch's signatures, against torch and float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fusedlm import functional, ops
from tests.support import reference
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.compare import assert_same_bits, here, randn, results_by_threads

DTYPES = [torch.float32, torch.bfloat16]


def classes_of(shape, V, seed):
    generator = torch.Generator("cpu").manual_seed(seed)
    classes = torch.randint(V, shape, generator=generator, device="cpu")
    return classes.to(torch.get_default_device())


def targets_of(shape, V, seed=5):
    """As `classes_of`; a few do not count."""
    targets = classes_of(shape, V, seed)
    if targets.numel() > 4:
        targets.view(-1)[::4] = -100
    return targets


def both_ways(function, logits, targets, dtype, dloss=None, **options):
    leaf = logits.to(dtype).clone().requires_grad_()
    if options.get("weight") is not None:
        options["weight"] = options["weight"].to(dtype)
    loss = function(leaf, targets, **options)
    loss.backward(None if dloss is None else dloss.to(loss.dtype))
    return loss.detach(), leaf.grad


def compare(logits, targets, dtype, dloss=None, **options):
    logits = logits.to(dtype)
    dloss = None if dloss is None else dloss.to(dtype)
    if "weight" in options:
        options["weight"] = options["weight"].to(dtype)
    arguments = logits, targets
    ours = both_ways(functional.cross_entropy, *arguments, dtype, dloss, **options)
    plain = both_ways(F.cross_entropy, *arguments, dtype, dloss, **options)
    exact = both_ways(F.cross_entropy, *arguments, torch.float64, dloss, **options)
    for name, a, b, c in zip(("loss", "dlogits"), ours, plain, exact, strict=True):
        assert_as_accurate_as_torch(a, b, c, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 5), (17, 16), (9, 1023), (40, 321), (5, 20000)], ids=str
)
def test_equals_torch(isa, shape, dtype):
    compare(3 * randn(*shape, seed=1), targets_of(shape[:1], shape[1]), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    "options",
    [{}, {"label_smoothing": 0.1}, {"weight": torch.linspace(0.1, 2, 77)}, {"ignore_index": 3},
     {"label_smoothing": 0.2, "weight": torch.linspace(0.1, 2, 77), "ignore_index": 3}],
    ids=lambda o: " ".join(o) or "plain",
)  # fmt: skip
def test_with_flags_equals_torch(isa, options, reduction, dtype):
    options = here(options)
    targets = targets_of((30,), 77)
    targets[targets < 0] = options.get("ignore_index", -100)
    dloss = randn(30, seed=8) if reduction == "none" else None
    compare(randn(30, 77, seed=1), targets, dtype, dloss, reduction=reduction, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7,), (3, 7, 5), (2, 7, 3, 4), (0, 7)], ids=str)
def test_every_layout_of_torch_is_taken(isa, shape, dtype):
    targets = classes_of(shape[:1] * (len(shape) > 1) + shape[2:], 7, seed=3)
    for reduction in ("sum", "none"):
        dloss = randn(*targets.shape, seed=2) if targets.dim() and reduction == "none" else None
        compare(randn(*shape, seed=1), targets, dtype, dloss, reduction=reduction)


def test_a_transposed_view_of_a_models_logits_is_not_copied_out_of_order(kernels):
    logits, targets = randn(2, 5, 11, seed=1), targets_of((2, 5), 11)
    compare(logits.transpose(1, 2), targets, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{"z_loss": 0.01}, {"softcap": 2.0}, {"z_loss": 0.02, "softcap": 3.0,
                                     "label_smoothing": 0.1}], ids=str)  # fmt: skip
def test_z_loss_and_softcap_equal_float64(isa, options, dtype):
    """The reference is linear_cross_entropy's, with the unit matrix for a head."""

    def plain(logits, targets, **options):
        return reference.linear_cross_entropy(
            logits, torch.eye(83, dtype=logits.dtype), targets, **options
        ).to(logits.dtype)

    logits, targets = (3 * randn(20, 83, seed=1)).to(dtype), targets_of((20,), 83)
    ours = both_ways(ops.cross_entropy, logits, targets, dtype, **options)
    for a, b, c in zip(ours, both_ways(plain, logits, targets, dtype, **options),
                       both_ways(plain, logits, targets, torch.float64, **options), strict=True):  # fmt: skip
        assert_as_accurate_as_torch(a, b, c, str(options))


def test_masked_classes_large_logits_and_nothing_to_average_are_as_in_torch(isa):
    logits = torch.tensor([[1e4, 0.0, -1e4], [float("-inf"), 2.0, 1.0], [0.0, 3.0, 1.0]])
    for targets in ([0, 1, 2], [1, 2, -100], [-100, -100, -100]):
        targets = torch.tensor(targets)
        ours = both_ways(functional.cross_entropy, logits, targets, torch.float32)
        theirs = both_ways(F.cross_entropy, logits, targets, torch.float32)
        torch.testing.assert_close(ours[0], theirs[0], equal_nan=True)
        if not ours[0].isnan():
            torch.testing.assert_close(ours[1], theirs[1])
    spoilt = randn(2, 35, seed=1).index_fill(0, torch.tensor([1]), float("nan"))
    loss = functional.cross_entropy(spoilt, torch.tensor([0, 0]), reduction="none")
    assert loss[0].isfinite() and loss[1].isnan()


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_number_of_threads(isa, dtype):
    logits, targets = randn(150, 321, seed=1), targets_of((150,), 321)
    assert_same_bits(
        results_by_threads(
            lambda: list(both_ways(ops.cross_entropy, logits, targets, dtype, label_smoothing=0.1))
        )
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first", [0, 1, 3])
def test_rows_may_begin_anywhere_in_memory(isa, first, dtype):
    """16 bytes at a time are read where that is possible: these rows begin anywhere between."""
    wide, targets = randn(9, 70, seed=1).to(dtype), targets_of((9,), 61)
    part = wide[:, first : first + 61]
    ours = both_ways(functional.cross_entropy, part, targets, dtype)
    leaf = part.detach().requires_grad_()  # a view: its gradient is dense, and lies otherwise
    loss = functional.cross_entropy(leaf, targets)
    loss.backward()
    torch.testing.assert_close(loss.detach(), ours[0])
    torch.testing.assert_close(leaf.grad, ours[1])


def test_the_logits_are_left_alone_and_may_be_read_by_others(kernels):
    logits = randn(6, 9, seed=1).requires_grad_()
    kept, targets = logits.detach().clone(), targets_of((6,), 9)
    loss = functional.cross_entropy(logits, targets) + logits.square().sum()
    loss.backward()
    leaf = kept.clone().requires_grad_()
    (F.cross_entropy(leaf, targets) + leaf.square().sum()).backward()
    assert torch.equal(logits, kept)
    torch.testing.assert_close(logits.grad, leaf.grad)


def test_old_reductions_class_probabilities_and_float64_are_torchs(kernels):
    logits, targets = randn(6, 9, seed=1), targets_of((6,), 9)
    for options in (
        {"size_average": False},
        {"reduce": False},
        {"size_average": True, "reduce": True},
    ):
        with pytest.warns(UserWarning, match="deprecated"):
            theirs = F.cross_entropy(logits, targets, **options)
        with pytest.warns(UserWarning, match="deprecated"):
            torch.testing.assert_close(functional.cross_entropy(logits, targets, **options), theirs)
    soft = torch.softmax(randn(6, 9, seed=2), -1)
    assert torch.equal(functional.cross_entropy(logits, soft), F.cross_entropy(logits, soft))
    wide = logits.double()
    assert torch.equal(functional.cross_entropy(wide, targets), F.cross_entropy(wide, targets))


def test_bad_arguments_are_named():
    logits, targets = randn(6, 9, seed=1), targets_of((6,), 9)
    with pytest.raises(
        ValueError, match=r"cross_entropy: target has shape \[5\] and input \[6, 9\]"
    ):
        ops.cross_entropy(logits, targets[:5])
    with pytest.raises(
        ValueError, match=r"targets\[1\] is 9, expected 0 to 8 or ignore_index -100"
    ):
        ops.cross_entropy(logits, torch.tensor([0, 9, 0, 0, 0, 0]))
    with pytest.raises(ValueError, match="cross_entropy: targets has dtype int32"):
        ops.cross_entropy(logits, targets.int())
    with pytest.raises(ValueError, match="cross_entropy: class_weight has shape"):
        ops.cross_entropy(logits, targets, torch.ones(8))
    with pytest.raises(ValueError, match="reduction is 'average', expected mean, sum or none"):
        ops.cross_entropy(logits, targets, reduction="average")
    with pytest.raises(ValueError, match="label_smoothing is 2"):
        ops.cross_entropy(logits, targets, label_smoothing=2.0)
    with pytest.raises(ValueError, match="z_loss is -1"):
        ops.cross_entropy(logits, targets, z_loss=-1.0)
    with pytest.raises(NotImplementedError, match="z_loss and softcap are for class indices"):
        ops.cross_entropy(logits.double(), targets, z_loss=1.0)


def head(function, x, head_weight, bias, targets, dtype, **options):
    leaves = [t.to(dtype).clone().requires_grad_() for t in (x, head_weight, bias)]
    if options.get("weight") is not None:
        options["weight"] = options["weight"].to(dtype)
    loss = function(leaves[0], leaves[1], targets, linear_bias=leaves[2], **options)
    loss.sum().backward()
    return loss.detach(), *(t.grad for t in leaves)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "options",
    [{}, {"reduction": "none"}, {"reduction": "sum", "label_smoothing": 0.1}, {"ignore_index": 2},
     {"weight": torch.linspace(0.5, 2, 11)}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("shape", [(6, 8), (8,)], ids=str)
def test_linear_cross_entropy_equals_torch(kernels, shape, options, dtype):
    theirs = getattr(F, "linear_cross_entropy", None)
    if theirs is None:
        pytest.skip("this torch has no linear_cross_entropy; 2.13 has")
    x, weight, bias = randn(*shape, seed=1), randn(11, 8, seed=2), randn(11, seed=3)
    options = here(options)
    targets = classes_of(shape[:-1], 11, seed=4)
    rounded = [t.to(dtype) for t in (x, weight, bias)]
    ours, plain, exact = (
        head(f, *rounded, targets, d, **options)
        for f, d in (
            (functional.linear_cross_entropy, dtype),
            (theirs, dtype),
            (theirs, torch.float64),
        )
    )
    for name, a, b, c in zip(("loss", "dx", "dweight", "dbias"), ours, plain, exact, strict=True):
        assert_as_accurate_as_torch(a, b, c, name)


def test_linear_cross_entropy_takes_places_and_probabilities_as_torch_does(kernels):
    theirs = getattr(F, "linear_cross_entropy", None)
    if theirs is None:
        pytest.skip("this torch has no linear_cross_entropy; 2.13 has")
    x, weight, bias = randn(4, 8, seed=1), randn(11, 3, 8, seed=2), randn(11, 3, seed=3)
    targets = classes_of((4, 3), 11, seed=6)
    torch.testing.assert_close(
        functional.linear_cross_entropy(x, weight, targets, linear_bias=bias),
        theirs(x, weight, targets, linear_bias=bias),
    )
    soft = torch.softmax(randn(4, 11, seed=5), 1)
    torch.testing.assert_close(
        functional.linear_cross_entropy(x, weight[:, 0], soft), theirs(x, weight[:, 0], soft)
    )
    with pytest.raises(ValueError, match="ignore_index is given, but target has probabilities"):
        functional.linear_cross_entropy(x, weight[:, 0], soft, ignore_index=1)
    with pytest.raises(ValueError, match="linear_cross_entropy: input has shape"):
        functional.linear_cross_entropy(x[None], weight[:, 0], targets)
