"""Attention to keys and values in the pages of a cache, against the same keys one after another."""

from __future__ import annotations

import pytest
import torch

from fusedlm import ops
from tests.support import reference
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.compare import assert_same_bits, randn, results_by_threads
from tests.support.dtypes import DTYPES
from tests.support.gpu import ON_GPU


def paged(key, lengths, page, seed=0):
    """key [B, S, G, D] -> pages in a shuffled order, those and the slots that nobody reads full of NaN,
    and the table; entries behind the lengths are nonsense."""
    B, S, G, D = key.shape
    n = -(-S // page)
    count = B * n + 3
    order = randn(count, seed=seed).argsort()[: B * n].view(B, n)
    pages = torch.full((count, page, G, D), float("nan"), dtype=key.dtype)
    table = torch.full((B, n), -7, dtype=torch.int32)
    for b, length in enumerate(lengths):
        for j in range(length):
            pages[order[b, j // page], j % page] = key[b, j]
            table[b, j // page] = int(order[b, j // page])
    return pages, table


def case(T, lengths, H, G, D, dtype, seed=0):
    B, S = len(lengths), max(lengths)
    shapes = (B, T, H, D), (B, S, G, D), (B, S, G, D)
    tensors = (randn(*shape, seed=seed + i).to(dtype) for i, shape in enumerate(shapes))
    return *tensors, torch.tensor(lengths)


def attend(query, key, value, lengths, page, **options):
    keys, table = paged(key, lengths.tolist(), page)
    values, _ = paged(value, lengths.tolist(), page)
    return ops.attention(query, keys, values, kv_lengths=lengths, block_table=table, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("page", [1, 5, 32])
@pytest.mark.parametrize("T", [1, 7, 16, 17, 70])
@pytest.mark.parametrize("heads", [(3, 3, 16), (9, 3, 64), (10, 2, 33)])
def test_equals_float64(isa, heads, T, page, dtype):
    tensors = case(T, [150, T, 301], *heads, dtype)
    out = attend(*tensors, page, causal=True)
    query, key, value, lengths = tensors
    plain, exact = (
        reference.attention(
            *(t.to(d) for t in (query, key, value)), causal=True, kv_lengths=lengths
        )
        for d in (dtype, torch.float64)
    )
    assert_as_accurate_as_torch(out, plain, exact, "out")


OPTIONS = {  # made by the tests: on a GPU, tensors are there
    "not causal": lambda: {},
    "window": lambda: {"causal": True, "window": 40},
    "softcap": lambda: {"causal": True, "softcap": 3.0, "scale": 0.5},
    "alibi": lambda: {"causal": True, "alibi_slopes": torch.tensor([0.5, 0.25, 0.1, 0.05])},
}


@pytest.mark.parametrize("T", [3, 40])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_equal_float64(isa, options, T):
    tensors = case(T, [200, 131], 4, 2, 32, torch.float32)
    query, key, value, lengths = tensors
    options = options()
    plain, exact = (
        reference.attention(*(t.to(d) for t in (query, key, value)), kv_lengths=lengths, **options)
        for d in (torch.float32, torch.float64)
    )
    assert_as_accurate_as_torch(attend(*tensors, 16, **options), plain, exact, "out")


def test_a_mask_covers_all_pages_of_the_table(isa):
    query, key, value, lengths = case(2, [40, 23], 2, 1, 16, torch.float32)
    mask = randn(2, 1, 2, 48, seed=1) < 0.5
    mask[..., 0] = True
    expected = ops.attention(query, key, value, kv_lengths=lengths, mask=mask[..., :40])
    out = attend(query, key, value, lengths, 16, mask=mask)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 70])
def test_up_to_16_queries_get_the_same_bits_as_alone(isa, window, dtype):
    if isa in ON_GPU:
        pytest.skip("on a GPU keys are cut by the number of queries and rows")
    query, key, value, _ = case(16, [417], 6, 2, 64, dtype)
    together = attend(query, key, value, torch.tensor([417]), 32, causal=True, window=window)
    for t in range(16):
        length = torch.tensor([417 - 15 + t])
        alone = attend(query[:, t : t + 1], key, value, length, 32, causal=True, window=window)
        assert torch.equal(alone[0, 0], together[0, t]), t


def test_rows_get_the_same_bits_as_alone(isa):
    if isa in ON_GPU:
        pytest.skip("on a GPU keys are cut by the number of queries and rows")
    query, key, value, lengths = case(1, [417, 3, 1200, 128], 6, 2, 64, torch.bfloat16)
    together = attend(query, key, value, lengths, 32, causal=True)
    for b in range(4):
        row = slice(b, b + 1)
        alone = attend(query[row], key[row], value[row], lengths[row], 32, causal=True)
        assert torch.equal(alone, together[row]), b


@pytest.mark.parametrize("T", [1, 9, 60])
def test_a_float32_query_reads_a_bfloat16_cache(isa, T):
    query, key, value, lengths = case(T, [90, 230], 4, 2, 64, torch.bfloat16)
    if isa in ON_GPU:
        with pytest.raises(NotImplementedError, match="key has dtype bfloat16, expected float32"):
            attend(query.float(), key, value, lengths, 32)
        return
    out = attend(query.float(), key, value, lengths, 32, causal=True)
    assert out.dtype == torch.float32
    exact = reference.attention(
        *(t.double() for t in (query, key, value)), causal=True, kv_lengths=lengths
    )
    assert (out - exact).abs().max() < 1e-4


@pytest.mark.parametrize("T", [2, 50])
def test_same_bits_for_any_number_of_threads(isa, T):
    tensors = case(T, [700, 129], 6, 2, 32, torch.bfloat16)
    assert_same_bits(results_by_threads(lambda: [attend(*tensors, 32, causal=True)]))


def test_bad_tables_are_named():
    query, key, _, lengths = case(1, [40, 23], 2, 1, 16, torch.float32)
    keys, table = paged(key, [40, 23], 16)
    call = lambda **options: ops.attention(query, keys, keys, **options)  # noqa: E731
    with pytest.raises(ValueError, match="block_table is given without kv_lengths"):
        call(block_table=table)
    with pytest.raises(
        ValueError, match=r"block_table has shape \[1, 3\], expected 2 in dimension 0"
    ):
        call(block_table=table[:1], kv_lengths=lengths)
    with pytest.raises(ValueError, match=r"kv_lengths\[0\] is 49, expected 0 to 48"):
        call(block_table=table, kv_lengths=torch.tensor([49, 1]))
    with pytest.raises(ValueError, match=r"block_table has -7 at \[1, 2\], expected 0 to 8"):
        call(block_table=table, kv_lengths=torch.tensor([40, 33]))
    with pytest.raises(ValueError, match="block_table does not go with cu_seqlens_q"):
        ops.attention(
            query[:1], keys, keys, kv_lengths=lengths[:1], block_table=table[:1],
            cu_seqlens_q=torch.tensor([0, 1]),
        )  # fmt: skip
    with pytest.raises(ValueError, match="key has dtype float32, expected bfloat16"):
        ops.attention(query.bfloat16(), keys, keys, block_table=table, kv_lengths=lengths)
    with pytest.raises(ValueError, match="block_table is for the forward alone"):
        out = ops.attention(
            query.requires_grad_(), keys, keys, block_table=table, kv_lengths=lengths
        )
        out.sum().backward()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", [1, 3, 40])
@pytest.mark.parametrize(
    "options", [OPTIONS["softcap"], OPTIONS["alibi"]], ids=["softcap", "alibi"]
)
@pytest.mark.parametrize("D", [32, 33, 128, 256])
def test_on_the_gpu_pages_give_the_same_bits_as_keys_in_a_row(simt, D, options, T, dtype):
    # With options: pages always come to the scores on their way, which rounds once more than without.
    query, key, value, lengths = case(T, [96, 70], 4, 2, D, dtype)
    options = options()
    expected = ops.attention(query, key, value, kv_lengths=lengths, **options)
    for page in (1, 12, 32):  # as many keys as there are
        assert torch.equal(attend(query, key, value, lengths, page, **options), expected)
