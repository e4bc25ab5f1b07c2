"""Attention with any shapes, layouts, dtypes and flags, one after another, packed, and with dropout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from fusedlm import ops
from tests.support import reference
from tests.support.drawn import Case, Drawing
from tests.support.drawn_attention import scores
from tests.support.dropout import dropout_mask
from tests.support.properties import check

HEADS = [(1, 1), (2, 1), (2, 2), (3, 3), (4, 2), (6, 2)]
# Rows that see nothing give zeros in `reference`, and their gradients are zero.
LARGEST = 4.0  # of some hundred normal values


@st.composite
def cases(draw, packed: bool = False, dropout: bool = False) -> Case:
    a = Drawing(draw)
    B, T, D = a.one_of([1, 2, 3, 0]), a.rows(), a.size()
    H, G = a.one_of(HEADS)
    sequences = B == 1 and not dropout and a.flag()
    S = T if packed else a.rows()
    options = {**scores(a, H), **(_sequences(a, T, S, packed) if sequences else {})}
    if not sequences:
        options |= _masks(a, B, T, S, H, packed)
    spread = a.one_of([1.0, 1.0, 6.0])
    if packed:
        tensors = {"qkv": a.normal(B, T, H + 2 * G, D)}
        options["heads"] = H
    else:
        tensors = {
            "query": a.normal(B, T, H, D, scale=spread), "key": a.normal(B, S, G, D),
            "value": a.normal(B, S, G, D),
        }  # fmt: skip
    case = Case(a.isa, a.dtype, tensors, [a.normal(B, T, H, D)], a.some_of(tensors), options)
    case.floors = _floors(T, S, H // G, D, spread, options)
    if dropout:
        assume(T and S and B)
        p = a.one_of([0.1, 0.5, 0.9])
        options |= {"dropout_p": p, "seed": a.number(0, 2**63 - 1)}
        case.floors = {name: floor / (1 - p) for name, floor in case.floors.items()}
    return case


def _masks(a: Drawing, B: int, T: int, S: int, H: int, packed: bool) -> dict:
    options = {}
    if a.flag():
        options["key_padding_mask"] = a.chosen(B, S)
    if not packed and a.flag():
        options["kv_lengths"] = a.integers(0, S + 1, B, dtype=a.one_of([torch.int32, torch.int64]))
    shape = a.one_of([None, (T, S), (1, S), (H, T, 1), (B, 1, T, S), (B, H, T, S), (1, H, 1, S)])
    if shape is not None and a.flag():
        options["mask"] = a.chosen(*shape)
    elif shape is not None:
        values = torch.randn(shape, generator=a.generator())
        dropped = torch.rand(shape, generator=a.generator()) < 0.2
        values = values.masked_fill(dropped, -torch.inf)
        options["mask"] = a.laid_out(values.to(a.one_of([torch.float32, a.dtype])))
    return options


def _sequences(a: Drawing, T: int, S: int, packed: bool) -> dict:
    count = a.number(1, 4)

    def offsets(tokens: int):
        cuts = sorted(a.number(0, tokens) for _ in range(count))
        return torch.tensor([0, *cuts], dtype=a.one_of([torch.int32, torch.int64]))

    if packed:
        return {"cu_seqlens": offsets(T)}
    options = {"cu_seqlens_q": offsets(T)}
    if T != S or a.flag():
        options["cu_seqlens_k"] = offsets(S)
    return options


def _floors(T: int, S: int, shared: int, D: int, spread: float, options: dict) -> dict:
    """With one key left, a weight of 1 has no gradient: what arrives at it and what arrives at the output
    cancel, up to the rounding of the output."""
    scale = abs(options.get("scale", D**-0.5))
    arrives = LARGEST * D**0.5
    return {
        "dquery": max(1.0, scale * arrives * LARGEST),
        "dkey": max(1.0, scale * arrives * spread * LARGEST * (T * shared) ** 0.5),
        "dqkv": max(1.0, scale * arrives * LARGEST * (T * shared) ** 0.5),
    }


def plain(query, key, value, **options):
    """The reference, with zeros for tokens of no sequence."""
    out = reference.attention(query, key, value, **options)
    return F.pad(out, (0, 0, 0, 0, 0, query.shape[1] - out.shape[1]))


def plain_packed(qkv, heads, cu_seqlens=None, **options):
    parts = qkv.split((heads, (qkv.shape[2] - heads) // 2, (qkv.shape[2] - heads) // 2), dim=2)
    return plain(*parts, cu_seqlens_q=cu_seqlens, **options)


def plain_with_dropout(query, key, value, dropout_p, seed, **options):
    """Of the weights that the reference gives, those that ours keeps."""
    B, T, H, _ = query.shape
    S, G = key.shape[1:3]
    kept = dropout_mask(B, T, S, H, dropout_p, seed)
    each = torch.eye(S, dtype=value.dtype)[:, None].expand(B, S, G, S)
    weights = reference.attention(query, key, each, **options).transpose(1, 2)
    values = value.transpose(1, 2).repeat_interleave(H // G, dim=1)
    return (weights * kept / (1 - dropout_p) @ values).transpose(1, 2)


@given(cases())
def test_any_attention_is_as_accurate_as_torch(case):
    check(case, ops.attention, plain)


@given(cases(packed=True))
def test_any_attention_on_packed_qkv_is_as_accurate_as_torch(case):
    check(case, ops.attention_qkv, plain_packed)


@given(cases(dropout=True))
def test_any_attention_with_dropout_is_as_accurate_as_torch(case):
    check(case, ops.attention, plain_with_dropout)
