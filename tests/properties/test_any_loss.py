"""Cross-entropy, of logits and fused with the head, with any shapes, layouts, dtypes and flags."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fusedlm import ops
from tests.support import reference
from tests.support.drawn import Case, Drawing
from tests.support.properties import check


@st.composite
def head_cases(draw) -> Case:
    a = Drawing(draw)
    lead, C, V = a.lead(), a.size(), a.size()
    tensors = {
        "x": a.normal(*lead, C, scale=a.one_of([1.0, 1.0, 8.0])),
        "weight": a.parameter(V, C, scale=C**-0.5),
    }
    if a.flag():
        tensors["bias"] = a.parameter(V)
    options = flags(a)
    options["targets"] = targets_of(a, V, lead, options["ignore_index"])
    if a.flag():
        options["class_weight"] = class_weights(a, V)
    reduction = options["reduction"]
    arriving = [a.normal(*(lead if reduction == "none" else ()), dtype=torch.float32)]
    case = Case(a.isa, a.dtype, tensors, arriving, a.some_of(tensors), options)
    case.floors = floors_of(options, options["targets"])
    return case


@st.composite
def logit_cases(draw) -> Case:
    # float16 goes to torch's own function on the CPU.
    a = Drawing(draw, dtypes=[torch.float32, torch.bfloat16])
    N, V = a.rows(), a.size()
    shape, lead = a.one_of(
        [((N, V), (N,)), ((V,), ()), ((3, V, N), (3, N)), ((2, V, 3, 1), (2, 3, 1))]
    )
    tensors = {"input": a.normal(*shape, scale=a.one_of([1.0, 20.0]))}
    options = flags(a)
    options["target"] = targets_of(a, V, lead, options["ignore_index"])
    if a.flag():
        options["weight"] = class_weights(a, V)
    out = lead if options["reduction"] == "none" else ()
    case = Case(a.isa, a.dtype, tensors, [a.normal(*out)], a.some_of(tensors), options)
    case.floors = floors_of(options, options["target"])
    return case


def flags(a: Drawing) -> dict:
    return {
        "ignore_index": a.one_of([-100, 0, 2]),
        "reduction": a.one_of(["mean", "sum", "none"]),
        "label_smoothing": a.one_of([0.0, 0.1, 1.0]),
        "z_loss": a.one_of([0.0, 0.01]),
        "softcap": a.one_of([0.0, 2.0, 30.0]),
    }


def targets_of(a: Drawing, V: int, lead, ignored: int) -> Tensor:
    targets = torch.randint(0, V, lead, generator=a.generator())
    if a.flag():
        targets[torch.rand(lead, generator=a.generator()) < a.one_of([0.3, 1.0])] = ignored
    return a.laid_out(targets)


def class_weights(a: Drawing, V: int) -> Tensor:
    return a.laid_out(torch.rand(V, generator=a.generator()) + 0.1)


def floors_of(options: dict, targets: Tensor) -> dict:
    """A probability of 1 leaves nothing of the gradient: 1 - 1, for each row that counts."""
    rows = max(1, int((targets != options["ignore_index"]).sum()))
    return {"": 1.0 / rows if options["reduction"] == "mean" else 1.0, "out0": 8.0}


def plain_logits(input, target, weight=None, **options):
    V = input.shape[min(1, input.dim() - 1)]
    rows = input.movedim(1, -1) if input.dim() > 2 else input
    loss = reference.cross_entropy(
        rows.reshape(-1, V).to(torch.float64 if input.dtype == torch.float64 else torch.float32),
        target.reshape(-1), class_weight=weight, **options,
    )  # fmt: skip
    loss = loss.view(target.shape) if options["reduction"] == "none" else loss
    return loss.to(input.dtype)


@given(head_cases())
def test_any_head_with_its_loss_is_as_accurate_as_torch(case):
    check(case, ops.linear_cross_entropy, reference.linear_cross_entropy)


@given(logit_cases())
def test_any_loss_of_logits_is_as_accurate_as_torch(case):
    check(case, ops.cross_entropy, plain_logits)
