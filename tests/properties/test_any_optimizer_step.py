"""AdamW steps and the norm of gradients on any number of tensors of any shape, layout and dtype."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fusedlm import ops
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.compare import results_by_threads
from tests.support.drawn import Drawing
from tests.support.properties import copy_of, kernels_of, memory_of, placed, same_bits

NAMES = ("param", "exp_avg", "exp_avg_sq")


@st.composite
def steps(draw) -> dict:
    a = Drawing(draw)
    shapes = [a.one_of([(), (1,), (3,), (17, 5), (0, 4), (113,), (2, 3, 4, 5, 1, 2), (64, 33)])]
    shapes += [(a.size(), a.rows(17)) for _ in range(a.number(0, 4))]
    grad_dtype = a.one_of([a.dtype, torch.float32])

    def every(dtype, change=lambda t: t):
        return [
            a.laid_out(change(torch.randn(s, generator=a.generator())).to(dtype)) for s in shapes
        ]

    return {
        "isa": a.isa,
        "params": [_unshared(t) for t in every(a.dtype)],
        "grads": every(grad_dtype),
        "exp_avgs": [_unshared(t) for t in every(torch.float32)],
        "exp_avg_sqs": [_unshared(t) for t in every(torch.float32, torch.square)],
        "lrs": [a.one_of([0.0, 1e-3, 0.1]) for _ in shapes],
        "decays": [a.one_of([0.0, 0.1]) for _ in shapes],
        "steps": [a.one_of([1, 2, 1000]) for _ in shapes],
        "betas": a.one_of([(0.9, 0.95), (0.0, 0.0), (0.8, 0.999)]),
        "clip": a.one_of([1.0, 0.25]),
    }


def _unshared(t: Tensor) -> Tensor:
    """What is written to has a place in memory for each element, as torch's own steps want it."""
    return t.clone() if 0 in t.stride() else t


def _stepped(case: dict) -> list[Tensor]:
    """All bytes of what a step writes to, and the results as the views show them."""
    copies = {
        n: [copy_of(t, t.device) for t in case[n]] for n in ("params", "exp_avgs", "exp_avg_sqs")
    }
    ops.adamw_step_(
        copies["params"], case["grads"], copies["exp_avgs"], copies["exp_avg_sqs"],
        case["lrs"], case["betas"], 1e-8, case["decays"], case["steps"], clip_scale=case["clip"],
    )  # fmt: skip
    for name, tensors in copies.items():
        for t, before in zip(tensors, case[name], strict=True):
            back = copy_of(t, t.device)
            back.copy_(before)
            assert torch.equal(memory_of(back), memory_of(before)), f"{name}: wrote beside a view"
    return [t for tensors in copies.values() for t in tensors]


def _plain(case: dict, i: int, dtype: torch.dtype) -> list[Tensor]:
    """The formula, in `dtype`; the parameter is rounded once."""
    param, grad, m, v = (
        case[n][i].to(dtype) for n in ("params", "grads", "exp_avgs", "exp_avg_sqs")
    )
    (beta1, beta2), step, lr = case["betas"], case["steps"][i], case["lrs"][i]
    grad = grad * case["clip"]
    m = beta1 * m + (1 - beta1) * grad
    v = beta2 * v + (1 - beta2) * grad.square()
    update = (m / (1 - beta1**step)) / ((v / (1 - beta2**step)).sqrt() + 1e-8)
    return [param * (1 - lr * case["decays"][i]) - lr * update, m, v]


@given(steps())
def test_any_step_is_as_accurate_as_torch_and_writes_its_views_alone(case):
    case = placed(case["isa"], case)
    grads = [memory_of(g).clone() for g in case["grads"]]
    with kernels_of(case["isa"]):
        once, twice = results_by_threads(lambda: _stepped(case), counts=(1, 2))
    assert all(same_bits(a, b) for a, b in zip(once, twice, strict=True))
    assert all(torch.equal(memory_of(g), b) for g, b in zip(case["grads"], grads, strict=True))
    count = len(case["params"])
    for i in range(count):
        dtype = case["params"][i].dtype
        plain, exact = _plain(case, i, torch.float32), _plain(case, i, torch.float64)
        plain[0] = plain[0].to(dtype)
        for k, name in enumerate(NAMES):
            eps = 1e-5 if k or dtype == torch.float32 else torch.finfo(dtype).eps / 2
            assert_as_accurate_as_torch(once[k * count + i], plain[k], exact[k], name, eps)


@given(steps())
def test_the_norm_of_any_gradients_is_that_of_float64(case):
    case = placed(case["isa"], case)
    before = [memory_of(g).clone() for g in case["grads"]]
    with kernels_of(case["isa"]):
        norms = results_by_threads(lambda: [ops.grad_norm(case["grads"])], counts=(1, 2))
    exact = math.sqrt(sum(float(g.double().square().sum()) for g in case["grads"]))
    assert abs(norms[0][0].item() - exact) <= 1e-6 * exact
    assert torch.equal(norms[0][0], norms[1][0])
    assert all(torch.equal(memory_of(g), b) for g, b in zip(case["grads"], before, strict=True))
