"""flash_attn_with_kvcache against its documented behaviour: concatenate, turn, attend."""

from __future__ import annotations

import pytest
import torch

from fusedlm.functional import flash_attn_with_kvcache
from tests.support import reference
from tests.support.compare import here, randn
from tests.support.flash import plain

B, T, H, G, D, CAPACITY = 3, 4, 4, 2, 16, 32
LENGTHS = torch.tensor([5, 0, 28], dtype=torch.int32)


def caches(rows=B, dtype=torch.float32):
    return [randn(rows, CAPACITY, G, D, seed=i).to(dtype) for i in (3, 4)]


def new_tokens():
    return randn(B, T, H, D, seed=0), randn(B, T, G, D, seed=1), randn(B, T, G, D, seed=2)


def expected(q, k_cache, v_cache, k, v, lengths, **options):
    """Row by row on the concatenation; lse too."""
    slopes = options.pop("alibi_slopes", None)
    rows = []
    for b in range(q.shape[0]):
        keys, values = (c[b, : lengths[b]] for c in (k_cache, v_cache))
        if k is not None:
            keys, values = torch.cat([keys, k[b]]), torch.cat([values, v[b]])
        own = slopes if slopes is None or slopes.dim() == 1 else slopes[b]
        rows.append(plain(q[b : b + 1], keys[None], values[None], alibi_slopes=own, **options))
    return torch.cat([r[0] for r in rows]), torch.cat([r[1] for r in rows])


OPTIONS = {
    "plain": {},
    "causal": {"causal": True},
    "causal window": {"causal": True, "window_size": (6, 0)},
    "unequal window": {"window_size": (6, 2)},
    "softcap": {"causal": True, "softcap": 2.0},
    "alibi": {"causal": True, "alibi_slopes": torch.tensor([0.5, 0.25, 0.1, 0.05])},
    "alibi per row": {
        "causal": True,
        "alibi_slopes": torch.arange(12.0).view(B, H) / 20,
        "softmax_scale": 0.5,
    },
    "alibi per row, unequal window": {
        "window_size": (6, 2),
        "alibi_slopes": torch.arange(12.0).view(B, H) / 20,
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("appends", [False, True])
def test_equals_attention_on_the_concatenation(kernels, appends, options):
    options = here(options)
    lengths = here(LENGTHS)
    q, k, v = new_tokens()
    if not appends:
        k = v = None
    stored = caches()
    out, lse = flash_attn_with_kvcache(
        q, *stored, k, v, cache_seqlens=lengths, return_softmax_lse=True, **options
    )
    wanted = expected(q, *caches(), k, v, lengths.tolist(), **options)
    torch.testing.assert_close((out, lse), wanted, rtol=1e-4, atol=1e-5)
    for cache, before, added in zip(stored, caches(), (k, v), strict=True):
        for b, length in enumerate(lengths.tolist() if appends else ()):
            before[b, length : length + T] = added[b]
        assert torch.equal(cache, before)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_rotary_turns_new_keys_and_queries_at_their_positions(kernels, causal, interleaved):
    lengths = here(LENGTHS)
    q, k, v = new_tokens()
    cos, sin = reference.rope_tables(CAPACITY, 12)
    at_keys = lengths.long()[:, None] + torch.arange(T)
    at_queries = at_keys if causal else lengths.long()[:, None].expand(B, T)
    turned = [
        reference.rope(x, cos, sin, positions=at, interleaved=interleaved)
        for x, at in ((q, at_queries), (k, at_keys))
    ]
    stored = caches()
    out = flash_attn_with_kvcache(
        q, *stored, k, v, cos, sin, lengths, causal=causal, rotary_interleaved=interleaved
    )
    wanted, _ = expected(turned[0], *caches(), turned[1], v, lengths.tolist(), causal=causal)
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stored[0][0, 5:9], turned[1][0])


def test_cache_batch_idx_says_which_rows_are_ours(kernels):
    lengths = here(LENGTHS)
    q, k, v = new_tokens()
    index, stored = torch.tensor([4, 0, 2], dtype=torch.int32), caches(5)
    out = flash_attn_with_kvcache(
        q, *stored, k, v, cache_seqlens=lengths, cache_batch_idx=index, causal=True
    )
    own = [c[index.long()] for c in caches(5)]
    wanted, _ = expected(q, *own, k, v, lengths.tolist(), causal=True)
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(stored[0][4, 5:9], k[0])
    assert torch.equal(stored[0][[1, 3]], caches(5)[0][[1, 3]])


def test_pages_equal_rows(kernels):
    lengths = here(LENGTHS)
    q, k, v = new_tokens()
    order = torch.randperm(B * 8, generator=torch.Generator("cpu").manual_seed(1), device="cpu")
    table = here(order).view(B, 8).int()
    rows, pages = caches(), [torch.empty(B * 8, 4, G, D) for _ in range(2)]
    for paged, row in zip(pages, rows, strict=True):
        paged[table.long()] = row.view(B, 8, 4, G, D)
    out = flash_attn_with_kvcache(
        q, *pages, k, v, cache_seqlens=lengths, block_table=table, causal=True
    )
    assert torch.equal(
        out, flash_attn_with_kvcache(q, *rows, k, v, cache_seqlens=lengths, causal=True)
    )
    for paged, row in zip(pages, rows, strict=True):
        assert torch.equal(paged[table.long()].flatten(1, 2), row)


def test_padding_on_the_left_is_not_seen_and_moves_positions(kernels):
    lengths = here(LENGTHS)
    q, k, v = new_tokens()
    pad = torch.tensor([2, 0, 20], dtype=torch.int32)
    cos, sin = reference.rope_tables(CAPACITY, D)
    out = flash_attn_with_kvcache(
        q, *caches(), k, v, cos, sin, lengths, cache_leftpad=pad, causal=True
    )
    shifted = [torch.zeros_like(c) for c in caches()]
    for cache, moved in zip(caches(), shifted, strict=True):
        for b, p in enumerate(pad.tolist()):
            moved[b, : CAPACITY - p] = cache[b, p:]
    same = flash_attn_with_kvcache(q, *shifted, k, v, cos, sin, lengths - pad, causal=True)
    torch.testing.assert_close(out, same)


def test_one_length_for_all_and_a_full_cache(kernels):
    q = new_tokens()[0]
    some = flash_attn_with_kvcache(q, *caches(), cache_seqlens=7)
    torch.testing.assert_close(some, expected(q, *caches(), None, None, [7] * B)[0])
    whole = flash_attn_with_kvcache(q, *caches())
    torch.testing.assert_close(whole, expected(q, *caches(), None, None, [CAPACITY] * B)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_caches(kernels, dtype):
    lengths = here(LENGTHS)
    q, k, v = (t.to(dtype) for t in new_tokens())
    cos, sin = (t.to(dtype) for t in reference.rope_tables(CAPACITY, D))
    out = flash_attn_with_kvcache(q, *caches(dtype=dtype), k, v, cos, sin, lengths, causal=True)
    wide = [t.float() for t in (q, *caches(dtype=dtype), k, v, cos, sin)]
    exact = flash_attn_with_kvcache(*wide, lengths, causal=True)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), exact, rtol=2e-2, atol=2e-2)


def test_decoding_token_by_token_equals_the_whole(kernels):
    q, k, v = (randn(2, 12, n, D, seed=i) for i, n in enumerate((H, G, G)))
    cache = [torch.zeros(2, 12, G, D) for _ in range(2)]
    outs = [
        flash_attn_with_kvcache(
            *(t[:, i : i + 1] for t in (q,)), *cache, k[:, i : i + 1], v[:, i : i + 1],
            cache_seqlens=i, causal=True,
        )
        for i in range(12)
    ]  # fmt: skip
    torch.testing.assert_close(torch.cat(outs, 1), plain(q, k, v, causal=True)[0])
    assert torch.equal(cache[0], k)


@pytest.mark.parametrize("lengths", ["one number", "a tensor"])
@pytest.mark.parametrize("place", ["rows", "cache_batch_idx", "block_table"])
def test_no_value_is_read_back_from_a_device(place, lengths):
    """A tensor of the meta device has none, and refuses."""
    with torch.device("meta"):
        q, k, v = torch.empty(B, T, H, D), torch.empty(B, T, G, D), torch.empty(B, T, G, D)
        cos, slopes = torch.empty(CAPACITY, 6), torch.empty(B, H)
        rows, page = (B * 8, 4) if place == "block_table" else (B, CAPACITY)
        cache = [torch.empty(rows, page, G, D) for _ in range(2)]
        where = {
            "rows": {}, "cache_batch_idx": {"cache_batch_idx": torch.empty(B, dtype=torch.int32)},
            "block_table": {"block_table": torch.empty(B, 8, dtype=torch.int32)},
        }[place]  # fmt: skip
        given = 7 if lengths == "one number" else torch.empty(B, dtype=torch.int32)
    out = flash_attn_with_kvcache(
        q, *cache, k, v, cos, cos, given, alibi_slopes=slopes, window_size=(6, 2), **where
    )
    assert out.is_meta and out.shape == q.shape
    with pytest.raises(ValueError, match=r"cache_seqlens is \[30, 30, 30\] and 4 are new"):
        flash_attn_with_kvcache(q, *cache, k, v, cache_seqlens=30, **where)


def test_bad_arguments_are_named_and_nothing_is_stored():
    q, k, v = new_tokens()
    stored = caches()
    with pytest.raises(
        ValueError, match=r"cache_seqlens is \[5, 0, 29\] and 4 are new, expected 0 to 32"
    ):
        flash_attn_with_kvcache(q, *stored, k, v, cache_seqlens=LENGTHS + torch.tensor([0, 0, 1]))
    assert torch.equal(stored[0], caches()[0])
    with pytest.raises(ValueError, match="k and v belong together"):
        flash_attn_with_kvcache(q, *stored, k, cache_seqlens=LENGTHS)
    with pytest.raises(
        ValueError, match=r"v has shape \[3, 3, 2, 16\], expected \[3, 4, 2, 16\] as k"
    ):
        flash_attn_with_kvcache(q, *stored, k, v[:, :3], cache_seqlens=LENGTHS)
    with pytest.raises(ValueError, match=r"cache_seqlens has shape \[2\], expected \[3\]"):
        flash_attn_with_kvcache(q, *stored, k, v, cache_seqlens=LENGTHS[:2])
    with pytest.raises(ValueError, match="k_cache has 5 rows, expected 3"):
        flash_attn_with_kvcache(q, *caches(5), k, v, cache_seqlens=LENGTHS)
    with pytest.raises(ValueError, match="rotary_cos is given without k"):
        flash_attn_with_kvcache(q, *stored, rotary_cos=torch.ones(9, 8), cache_seqlens=LENGTHS)
    for alone in ("rotary_cos", "rotary_sin"):
        with pytest.raises(ValueError, match="rotary_cos and rotary_sin belong together"):
            flash_attn_with_kvcache(
                q, *stored, k, v, cache_seqlens=LENGTHS, **{alone: torch.ones(40, 8)}
            )
    assert torch.equal(stored[0], caches()[0])
    with pytest.raises(ValueError, match="cache_batch_idx is given along with block_table"):
        flash_attn_with_kvcache(
            q, *stored, cache_batch_idx=torch.arange(3), block_table=torch.zeros(3, 1).int()
        )
    for wrong, message in (
        ({"window_size": (1, 2, 3)}, "window_size is"),
        ({"softcap": -1.0}, "softcap"),
        ({"alibi_slopes": torch.ones(H + 1)}, "alibi_slopes"),
        ({"alibi_slopes": torch.ones(2, H)}, r"alibi_slopes has shape \[2, 4\], expected"),
        ({"cache_batch_idx": torch.tensor([0, 1, 3])}, "cache_batch_idx holds 0 to 3, expected 0 to 2"),
        ({"cache_batch_idx": torch.tensor([0, 1])}, r"cache_batch_idx has shape \[2\]"),
        ({"block_table": torch.zeros(2, 1).int()}, r"block_table has shape \[2, 1\]"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            flash_attn_with_kvcache(q, *stored, k, v, cache_seqlens=LENGTHS, **wrong)
        assert torch.equal(stored[0], caches()[0]) and torch.equal(stored[1], caches()[1])
    with pytest.raises(ValueError, match=r"v_cache has shape \[3, 31, 2, 16\], expected"):
        flash_attn_with_kvcache(q, stored[0], stored[1][:, 1:], k, v, cache_seqlens=LENGTHS)
    with pytest.raises(ValueError, match="key"):
        flash_attn_with_kvcache(q[:, :, :3], *stored, k, v, cache_seqlens=LENGTHS)
    assert torch.equal(stored[0], caches()[0]) and torch.equal(stored[1], caches()[1])
