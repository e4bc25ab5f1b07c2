"""Attention to the pages of a cache: any shapes, layouts, dtypes and flags."""

from __future__ import annotations

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from fusedlm import ops
from tests.support import reference
from tests.support.drawn import Case, Drawing
from tests.support.drawn_attention import scores
from tests.support.gpu import ON_GPU
from tests.support.properties import check

HEADS = [(1, 1), (2, 1), (3, 3), (4, 2), (9, 3)]


@st.composite
def cases(draw) -> Case:
    a = Drawing(draw)
    B, T, D = a.number(1, 3), a.one_of([1, 2, 7, 16, 17, 40]), a.size()
    H, G = a.one_of(HEADS)
    page, n = a.one_of([1, 5, 16, 32]), a.number(1, 4)
    lengths = [a.number(0, n * page) for _ in range(B)]
    options = {**scores(a, H), "kv_lengths": torch.tensor(lengths, dtype=torch.int32)}
    options["block_table"] = _table(a, lengths, page, n)
    tensors = {"query": a.normal(B, T, H, D)}
    for name in ("key", "value"):
        tensors[name] = _pages(a, (B * n + 2, page, G, D), options)
        assume(one_after_another(tensors[name], **_place(options)).isfinite().all())
    if a.dtype == torch.bfloat16 and a.isa not in ON_GPU and a.flag():
        tensors["query"] = a.normal(B, T, H, D, dtype=torch.float32)
    return Case(a.isa, a.dtype, tensors, options=options)


def _table(a: Drawing, lengths: list[int], page: int, n: int) -> Tensor:
    """Pages in any order; what stands behind a row's length is nonsense."""
    order = torch.randperm(len(lengths) * n + 2, generator=a.generator())[: len(lengths) * n]
    table = order.view(len(lengths), n).to(torch.int32)
    for row, length in zip(table, lengths, strict=True):
        row[-(-length // page) :] = -7
    laid = a.laid_out(table)
    # Where rows share their memory, a row's pages may have become another's nonsense.
    return laid if laid.equal(table) else table


def _pages(a: Drawing, shape: tuple[int, ...], options: dict) -> Tensor:
    """Slots that nobody reads are NaN."""
    values = torch.randn(shape, generator=a.generator()).to(a.dtype)
    unread = torch.ones(shape[:2], dtype=torch.bool)
    for row, length in zip(options["block_table"], options["kv_lengths"].tolist(), strict=True):
        for j in range(length):
            unread[row[j // shape[1]], j % shape[1]] = False
    values[unread] = float("nan")
    return a.laid_out(values)


def _place(options: dict) -> dict:
    return {name: options[name] for name in ("kv_lengths", "block_table")}


def one_after_another(pages: Tensor, kv_lengths: Tensor, block_table: Tensor) -> Tensor:
    """[B, S, G, D], zeros behind the lengths."""
    rows = pages[block_table.long().clamp(min=0)].flatten(1, 2)
    seen = torch.arange(rows.shape[1]) < kv_lengths[:, None]
    return rows.masked_fill(~seen[..., None, None], 0.0)


def plain(query, key, value, kv_lengths, block_table, **options):
    key, value = (
        one_after_another(pages, kv_lengths, block_table).to(query.dtype) for pages in (key, value)
    )
    return reference.attention(query, key, value, kv_lengths=kv_lengths, **options)


@given(cases())
def test_any_paged_attention_is_as_accurate_as_torch(case):
    check(case, ops.attention, plain)
