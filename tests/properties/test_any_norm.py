"""RMSNorm, layer norm and group norm on any shape, layout, dtype and flags."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from fusedlm import ops
from tests.support import reference
from tests.support.drawn import Case, Drawing
from tests.support.properties import check


@st.composite
def cases(draw, norm: str) -> Case:
    a = Drawing(draw)
    shape = (*a.lead(), a.size())
    eps = a.one_of([1e-6, 1e-5, 1e-2])
    tensors = {
        "x": a.normal(*shape, scale=a.one_of([1.0, 0.01, 30.0])),
        "weight": a.parameter(shape[-1]),
    }
    if norm == "layer_norm" and a.flag():
        tensors["bias"] = a.parameter(shape[-1])
    if a.flag():
        tensors["residual"] = a.normal(*shape)
    arriving = [a.normal(*shape) for _ in range(1 + ("residual" in tensors))]
    return Case(
        a.isa, a.dtype, tensors, arriving, a.some_of(tensors), {"eps": eps},
        floors_of(norm, tensors, arriving, eps),
    )  # fmt: skip


def floors_of(norm: str, tensors, arriving, eps: float) -> dict[str, float]:
    """Rows of nearly equal values leave little of themselves behind their mean, and 1 / sqrt(eps) of it."""
    x = tensors["x"].double() + tensors.get("residual", torch.zeros(()))
    if not x.numel():
        return {}
    weight, dy, largest = (t.double().abs().max() for t in (tensors["weight"], arriving[0], x))
    spread = x - x.mean(-1, keepdim=True) if norm == "layer_norm" else x
    rstd = (spread.square().mean(-1) + eps).rsqrt().max()
    scaled = float(rstd * largest)
    return {
        "out0": float(weight) * scaled,
        "out1": float(largest),
        "dweight": float(dy) * scaled,
        "": float(weight * dy * rstd) * max(1.0, scaled) ** 2,
    }


@st.composite
def group_cases(draw) -> Case:
    a = Drawing(draw)
    groups, D = a.one_of([1, 2, 3, 8]), a.one_of([2, 3, 5, 16])
    spatial = a.one_of([(), (a.rows(17),), (a.size(5), a.size(17))])
    shape = (a.rows(5), groups * D, *spatial)
    tensors = {"x": a.normal(*shape)}
    for name in ("weight", "bias"):
        if a.flag():
            tensors[name] = a.parameter(groups * D)
    arriving = [a.normal(*shape)]
    options = {"groups": groups, "eps": a.one_of([1e-5, 1e-2])}
    grouped = {n: t.double().abs().max().view(1) for n, t in tensors.items() if t.numel()}
    grouped = {"weight": torch.ones(1), **grouped}
    grouped["x"] = (
        tensors["x"].reshape(shape[0], groups, -1) if tensors["x"].numel() else torch.ones(0)
    )
    floors = floors_of("layer_norm", grouped, [g.reshape(-1) for g in arriving], options["eps"])
    return Case(a.isa, a.dtype, tensors, arriving, a.some_of(tensors), options, floors)


@given(cases("rms_norm"))
def test_any_rms_norm_is_as_accurate_as_torch(case):
    check(case, ops.rms_norm, reference.rms_norm)


@given(cases("layer_norm"))
def test_any_layer_norm_is_as_accurate_as_torch(case):
    check(case, ops.layer_norm, reference.layer_norm)


@given(group_cases())
def test_any_group_norm_is_as_accurate_as_torch(case):
    check(case, ops.group_norm, reference.group_norm)
