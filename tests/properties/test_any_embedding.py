"""Embedding and rotary positions with any shapes, layouts, dtypes and flags."""

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
def embedding_cases(draw) -> Case:
    a = Drawing(draw)
    B, T, V, C, P = a.rows(5), a.rows(33), a.size(), a.size(), a.size()
    shape = a.one_of([(B, T), (T,), (), (B, 2, T)])
    tensors = {"weight": a.parameter(V, C)}
    options = {"tokens": a.integers(0, V, *shape)}
    if a.flag():
        tensors["position_weight"] = a.parameter(P, C)
        options["positions"] = a.integers(0, P, *a.one_of([shape, shape[-1:], (1,) * len(shape)]))
        if shape and shape[-1] <= P and a.flag():
            del options["positions"]  # counted
    if a.flag():
        options["padding_idx"] = a.number(-V, V - 1)
    if a.flag():
        options["dtype"] = a.dtype
    options["sparse_grad"] = a.flag()
    out = options.get("dtype", tensors["weight"].dtype)
    case = Case(
        a.isa, a.dtype, tensors, [a.normal(*shape, C, dtype=out)], a.some_of(tensors), options
    )
    case.floors = {"dweight": 4.0, "dposition_weight": 4.0}
    return case


def plain_embedding(weight, tokens, dtype=None, sparse_grad=False, **options) -> Tensor:
    """In float64 where the weights are; `sparse_grad` changes nothing but the layout of a gradient."""
    dtype = weight.dtype if weight.dtype == torch.float64 else dtype
    return reference.embedding(tokens, weight, dtype=dtype, **options)


@st.composite
def rope_cases(draw) -> Case:
    a = Drawing(draw)
    B, T, H, D = (
        a.rows(3),
        a.rows(33),
        a.one_of([1, 2, 5]),
        a.one_of([2, 3, 8, 16, 17, 34, 64, 113]),
    )
    half, length = a.number(1, D // 2), a.size() + T
    cos, sin = (t.clone() for t in ops.rope_tables(length, 2 * half))
    options = {"cos": a.laid_out(cos), "sin": a.laid_out(sin), "interleaved": a.flag()}
    shape = a.one_of([None, (T,), (B, T), (1, T)])
    if shape is not None:
        options["positions"] = a.integers(0, length, *shape)
    if a.flag():
        options["heads"] = a.number(1, H)
    tensors = {"x": a.normal(B, T, H, D)}
    return Case(a.isa, a.dtype, tensors, [a.normal(B, T, H, D)], a.some_of(tensors), options)


def plain_rope(x, cos, sin, heads=None, **options) -> Tensor:
    turned = reference.rope(x[:, :, :heads], cos, sin, **options)
    return turned if heads is None else torch.cat([turned, x[:, :, heads:]], dim=2)


@given(embedding_cases())
def test_any_embedding_is_as_accurate_as_torch(case):
    check(case, lambda **t: ops.embedding(t.pop("tokens"), t.pop("weight"), **t), plain_embedding)


@given(rope_cases())
def test_any_rotation_is_as_accurate_as_torch(case):
    check(case, ops.rope, plain_rope)


@given(
    length=st.integers(1, 300),
    half=st.integers(1, 70),
    base=st.sampled_from([10.0, 1e4, 5e5]),
    factor=st.sampled_from([None, 1.0, 2.5, 8.0]),
    kind=st.sampled_from(["linear", "llama3"]),
)
def test_any_tables_of_angles_are_those_of_float64(length, half, base, factor, kind):
    scaling = None
    if factor is not None:
        scaling = {
            "rope_type": kind, "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }  # fmt: skip
    ours = ops.rope_tables(length, 2 * half, base, scaling=scaling)
    theirs = reference.rope_tables(length, 2 * half, base, scaling=scaling)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == (length, half) and a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
