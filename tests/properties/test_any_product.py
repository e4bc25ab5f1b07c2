"""Linear layer and feed-forward block with any shapes, layouts, dtypes and flags."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fusedlm import ops
from tests.support import reference
from tests.support.drawn import Case, Drawing
from tests.support.properties import check

GATED = ("swiglu", "geglu", "geglu_tanh")


@st.composite
def linear_cases(draw) -> Case:
    a = Drawing(draw)
    lead, K, outputs = a.lead(), a.size(), a.size()
    tensors = {"x": a.normal(*lead, K), "weight": a.parameter(outputs, K, scale=K**-0.5)}
    if a.flag():
        tensors["bias"] = a.parameter(outputs)
    if a.flag():
        tensors["residual"] = a.normal(*lead, outputs)
    options = {"activation": a.one_of([None, "relu", "gelu", "gelu_tanh", "silu"])}
    return Case(
        a.isa, a.dtype, tensors, [a.normal(*lead, outputs)], a.some_of(tensors), options,
        floors_of(tensors),
    )  # fmt: skip


@st.composite
def ffn_cases(draw) -> Case:
    a = Drawing(draw)
    lead, C, hidden = a.lead(), a.size(), a.size()
    activation = a.one_of(["relu", "gelu", "gelu_tanh", "swiglu", "geglu", "geglu_tanh"])
    tensors = {
        "x": a.normal(*lead, C),
        "up_weight": a.parameter(hidden, C, scale=C**-0.5),
        "down_weight": a.parameter(C, hidden, scale=hidden**-0.5),
    }
    for part in ["up", "gate"] if activation in GATED else ["up"]:
        if part == "gate":
            tensors["gate_weight"] = a.parameter(hidden, C, scale=C**-0.5)
        if a.flag():
            tensors[f"{part}_bias"] = a.parameter(hidden)
    if a.flag():
        tensors["down_bias"] = a.parameter(C)
    if a.flag():
        tensors["residual"] = a.normal(*lead, C)
    return Case(
        a.isa, a.dtype, tensors, [a.normal(*lead, C)], a.some_of(tensors),
        {"activation": activation}, floors_of(tensors),
    )  # fmt: skip


def floors_of(tensors: dict) -> dict[str, float]:
    """The gradient of a parameter is a sum over rows, each with what the rounding of its preactivation
    does to the slope."""
    x = tensors["x"]
    rows = max(1, x.numel() // x.shape[-1])
    return {f"d{name}": 2.0 * rows**0.5 for name in tensors if name not in ("x", "residual")}


@given(linear_cases())
def test_any_linear_layer_is_as_accurate_as_torch(case):
    check(case, ops.linear, reference.linear)


@given(ffn_cases())
def test_any_feed_forward_block_is_as_accurate_as_torch(case):
    check(case, ops.ffn, reference.ffn)
