"""`scaled_dot_product_attention` with whatever torch's own function takes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fusedlm import ops
from tests.support.drawn import Case, Drawing
from tests.support.properties import check


@st.composite
def cases(draw) -> Case:
    a = Drawing(draw)
    T, S, D, E = a.rows(33), a.size(33), a.size(64), a.size(64)
    lead = a.one_of([(2,), (), (1, 3), (0,)])
    H, G = a.one_of([(1, 1), (2, 2), (4, 2), (3, 1)])
    options = {"enable_gqa": H != G or a.flag(), "is_causal": a.flag()}
    if a.flag():
        options["scale"] = a.one_of([0.3, 0.01])
    if not options["is_causal"] and a.flag():
        options["attn_mask"] = _mask(a, a.one_of([(T, S), (1, S), (H, T, S), (*lead, 1, T, S)]))
    tensors = {
        "query": a.normal(*lead, H, T, D), "key": a.normal(*lead, G, S, D),
        "value": a.normal(*lead, G, S, E),
    }  # fmt: skip
    case = Case(
        a.isa, a.dtype, tensors, [a.normal(*lead, H, T, E)], a.some_of(tensors), options
    )  # fmt: skip
    # With one key left the gradient of its weight, which is 1, cancels up to the output's rounding.
    arrives = 16.0 * E**0.5 * options.get("scale", D**-0.5)
    case.floors = {"dquery": max(1.0, arrives), "dkey": max(1.0, arrives * (T * H // G) ** 0.5)}
    return case


def _mask(a: Drawing, shape) -> Tensor:
    """Each query sees the first key at least: of one that sees none, torch makes NaN."""
    if a.flag():
        kept = torch.rand(shape, generator=a.generator()) < 0.7
        kept[..., 0] = True
        return a.laid_out(kept) if a.flag() else kept
    return torch.randn(shape, generator=a.generator()).to(a.dtype)


def plain(query, key, value, attn_mask=None, **options) -> Tensor:
    if attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask, **options)


@given(cases())
def test_any_attention_in_torchs_layout_is_as_accurate_as_torch(case):
    check(case, ops.scaled_dot_product_attention, plain)
