"""RMSNorm and layer norm on any shape, layout, dtype and flags."""

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


@given(cases("rms_norm"))
def test_any_rms_norm_is_as_accurate_as_torch(case):
    check(case, ops.rms_norm, reference.rms_norm)


@given(cases("layer_norm"))
def test_any_layer_norm_is_as_accurate_as_torch(case):
    check(case, ops.layer_norm, reference.layer_norm)
