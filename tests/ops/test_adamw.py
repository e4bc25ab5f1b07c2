"""AdamW with clipping against float64, on every instruction set."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

from fusedlm import ops
from fusedlm.optim import AdamW
from tests.support import reference
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.compare import assert_same_bits, randn, results_by_threads
from tests.support.dtypes import DTYPES, HALVES

SHAPES = [(1,), (3,), (17, 5), (113,), (1023,), (1025, 33), (0, 4)]


def steps(optimizer_class, dtype, *, grad_scale=1.0, count=4, **options) -> list[torch.Tensor]:
    """Parameters after `count` steps on seeded gradients."""
    params = [randn(*s, seed=i).to(dtype).requires_grad_() for i, s in enumerate(SHAPES)]
    groups = [{"params": params[:3], "weight_decay": 0.0, "lr": 0.02}, {"params": params[3:]}]
    optimizer = optimizer_class(groups, lr=0.01, **options)
    for step in range(count):
        for i, p in enumerate(params):
            p.grad = (randn(*p.shape, seed=100 * step + i) * grad_scale).to(torch.float32).to(dtype)
        optimizer.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize(
    "options", [{}, {"max_grad_norm": 1.0}, {"weight_decay": 0.3, "betas": (0.8, 0.99)}]
)
def test_equals_float64(isa, options):
    ours = steps(AdamW, torch.float32, **options)
    plain = steps(reference.AdamW, torch.float32, **options)
    exact = steps(reference.AdamW, torch.float64, **options)
    for i, (a, b, c) in enumerate(zip(ours, plain, exact, strict=True)):
        assert_as_accurate_as_torch(a, b, c, f"parameter {i}")


def test_bfloat16_parameters_are_rounded_once(isa):
    ours = steps(AdamW, torch.bfloat16, count=1)
    exact = steps(reference.AdamW, torch.float64, count=1)
    for i, (a, c) in enumerate(zip(ours, exact, strict=True)):
        start = randn(*SHAPES[i], seed=i)
        assert ((a.double() - c).abs() <= 2**-7 * (c.abs() + start.abs())).all()


def test_a_gradient_far_below_the_first_moment_is_not_lost_in_it(isa):
    """Without momentum the first moment is the gradient, and a step in its direction is lr long."""
    param, grad = torch.zeros(100), torch.full((100,), 1e-6)
    ops.adamw_step_(
        [param], [grad], [torch.ones(100)], [torch.ones(100)], 1.0, (0.0, 0.0), 1e-12, 0.0, 1
    )
    torch.testing.assert_close(param, -torch.ones(100), rtol=1e-5, atol=0)


def test_the_norm_is_that_of_all_gradients(isa):
    grads = [randn(*s, seed=i) for i, s in enumerate(SHAPES)]
    expected = math.sqrt(sum(float(g.double().square().sum()) for g in grads))
    assert ops.grad_norm(grads).item() == pytest.approx(expected, rel=1e-6)
    assert ops.grad_norm([g.bfloat16() for g in grads]).item() == pytest.approx(expected, rel=1e-2)
    assert ops.grad_norm([torch.tensor([3e30, 4e30])]).item() == pytest.approx(5e30, rel=1e-6)
    assert ops.grad_norm([torch.tensor([3e-30, 4e-30])]).item() == pytest.approx(5e-30, rel=1e-6)
    assert ops.grad_norm([]).item() == 0


def test_same_bits_for_any_number_of_threads(isa):
    assert_same_bits(results_by_threads(lambda: steps(AdamW, torch.float32, max_grad_norm=1.0)))


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize(
    "dtypes",
    [
        [torch.float32] * 2, *([d, torch.float32] for d in HALVES),
        *([torch.float32, d] for d in HALVES), [torch.float16] * 2,
    ],
)  # fmt: skip
def test_many_tensors_of_either_dtype_and_alignment(isa, dtypes, offset):
    # More than one launch takes on the GPU; with an offset no wide accesses are possible.
    def flat(i, seed, dtype):
        return randn(40 + i + offset, seed=seed + i).to(dtype)[offset:]

    count = 150
    params = [flat(i, 0, dtypes[0]) for i in range(count)]
    grads = [flat(i, 1000, dtypes[1]) for i in range(count)]
    exp_avgs = [flat(i, 2000, torch.float32) for i in range(count)]
    exp_avg_sqs = [flat(i, 3000, torch.float32).abs_() for i in range(count)]
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in grads))
    assert ops.grad_norm(grads).item() == pytest.approx(norm, rel=1e-6)

    lrs, decays = [0.01 * (i % 7 + 1) for i in range(count)], [0.1 * (i % 3) for i in range(count)]
    expected = []
    for i in range(count):
        p, g, m, v = (t[i].double() for t in (params, grads, exp_avgs, exp_avg_sqs))
        m, v = 0.9 * m + 0.1 * 0.5 * g, 0.95 * v + 0.05 * (0.5 * g).square()
        update = (m / (1 - 0.9**3)) / ((v / (1 - 0.95**3)).sqrt() + 1e-8)
        expected.append((p * (1 - lrs[i] * decays[i]) - lrs[i] * update, m, v))
    ops.adamw_step_(
        params, grads, exp_avgs, exp_avg_sqs, lrs, (0.9, 0.95), 1e-8, decays, 3, clip_scale=0.5
    )
    for i, wanted in enumerate(expected):
        for got, exact in zip((params[i], exp_avgs[i], exp_avg_sqs[i]), wanted, strict=True):
            tolerance = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}[
                got.dtype
            ]
            torch.testing.assert_close(got.double(), exact, rtol=tolerance, atol=1e-6)


def test_the_norm_does_not_depend_on_alignment(isa):
    wide = randn(20_001, seed=0)
    shifted = torch.cat([torch.zeros(1), wide])[1:]
    assert ops.grad_norm([wide]).item() == ops.grad_norm([shifted]).item()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(isa, value):
    params = [randn(5, seed=0).requires_grad_(), randn(2000, seed=1).requires_grad_()]
    optimizer = AdamW(params, max_grad_norm=1.0)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    before = [p.detach().clone() for p in params]
    params[1].grad[1500] = value
    with pytest.raises(FloatingPointError, match="gradient norm is"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    assert optimizer.state[params[0]]["step"] == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_restored_state_goes_on_bit_for_bit(isa, dtype):
    def parameters():
        return [randn(300, seed=0).to(dtype).requires_grad_()]

    def step(params, optimizer, seed):
        params[0].grad = randn(300, seed=seed).to(dtype)
        optimizer.step()

    whole = parameters()
    first = AdamW(whole, lr=0.1)
    step(whole, first, 1)
    other = [p.detach().clone().requires_grad_() for p in whole]
    second = AdamW(other, lr=0.1)
    second.load_state_dict(first.state_dict())
    step(whole, first, 2)
    step(other, second, 2)
    assert torch.equal(whole[0], other[0])


@pytest.mark.parametrize("again", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_goes_on_bit_for_bit_and_clips_alike(kernels, again):
    param = randn(300, seed=0).requires_grad_()
    optimizer = AdamW([param], lr=0.1, max_grad_norm=0.5)
    param.grad = randn(300, seed=1)
    optimizer.step()
    other = again(optimizer)
    assert other.last_grad_norm == optimizer.last_grad_norm
    (copied,) = other.param_groups[0]["params"]
    param.grad, copied.grad = randn(300, seed=2), randn(300, seed=2)
    optimizer.step()
    other.step()
    assert torch.equal(param, copied) and param is not copied


def test_parameters_without_gradient_stay(kernels):
    used, unused = (randn(4, seed=i).requires_grad_() for i in range(2))
    before = unused.detach().clone()
    optimizer = AdamW([used, unused])
    used.grad = torch.ones(4)
    optimizer.step()
    assert torch.equal(unused, before) and unused not in optimizer.state


def test_bad_arguments_are_named():
    p = torch.ones(3)
    with pytest.raises(ValueError, match=r"grads\[0\] has shape \[4\], expected \[3\]"):
        ops.adamw_step_(
            [p], [torch.ones(4)], [p.clone()], [p.clone()], 0.1, (0.9, 0.9), 1e-8, 0.0, 1
        )
    with pytest.raises(ValueError, match=r"steps\[0\] is 0"):
        ops.adamw_step_([p], [p], [p.clone()], [p.clone()], 0.1, (0.9, 0.9), 1e-8, 0.0, 0)
    with pytest.raises(ValueError, match=r"exp_avgs\[0\] has dtype bfloat16"):
        ops.adamw_step_([p], [p], [p.bfloat16()], [p.clone()], 0.1, (0.9, 0.9), 1e-8, 0.0, 1)
    with pytest.raises(ValueError, match="lr is -1"):
        AdamW([p], lr=-1)
    with pytest.raises(ValueError, match="betas is"):
        AdamW([p], betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="max_grad_norm is 0"):
        AdamW([p], max_grad_norm=0)


def test_opcheck():
    tensors = [[randn(4, seed=i)] for i in range(4)]
    tensors[3] = [tensors[3][0].abs()]
    rest = ([0.1], [0.0], [1], 0.9, 0.99, 1e-8, 1.0)
    torch.library.opcheck(torch.ops.fusedlm.adamw_step_.default, (*tensors, *rest))
    torch.library.opcheck(torch.ops.fusedlm.grad_norm.default, (tensors[1],))
