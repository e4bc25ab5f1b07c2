"""flash-attn's interface against its documented behaviour, written down in plain torch below."""

from __future__ import annotations

import pytest
import torch

from fusedlm import functional
from fusedlm.functional import (
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.compare import assert_equals_float64, here, randn
from tests.support.flash import plain

DTYPES = [torch.float32, torch.bfloat16]


OPTIONS = {
    "plain": {},
    "causal": {"causal": True},
    "scale": {"softmax_scale": 0.5},
    "window both ways": {"window_size": (7, 7)},
    "window to the left": {"window_size": (5, 0)},
    "causal window": {"causal": True, "window_size": (6, 9)},
    "causal, no past limit": {"causal": True, "window_size": (-1, 4)},
    "unequal window": {"window_size": (9, 3)},
    "half-open window": {"window_size": (-1, 4)},
    "narrow window": {"window_size": (1, 0)},
    "softcap": {"softcap": 2.0, "causal": True},
    "alibi": {"alibi_slopes": torch.tensor([0.5, 0.25, 0.1, 0.05]), "causal": True},
    "alibi per row": {"alibi_slopes": torch.tensor([[0.5, 0.25, 0.1, 0.05], [1, 0.1, 0.2, 0.3]])},
    "everything": {
        "softmax_scale": 0.3, "window_size": (8, 2), "softcap": 3.0,
        "alibi_slopes": torch.tensor([[0.5, 0.25, 0.1, 0.05], [1, 0.1, 0.2, 0.3]]),
    },
}  # fmt: skip


def compare(ours, theirs, shapes, dtype):
    named = {name: randn(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    with torch.no_grad():
        like = theirs(named)
    assert_equals_float64(ours, theirs, named, [randn(*like.shape, seed=9)], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("T, S", [(30, 30), (9, 33), (33, 9)])
def test_flash_attn_func_equals_its_documentation(kernels, T, S, options, dtype):
    options = here(options)
    shapes = {"q": (2, T, 4, 16), "k": (2, S, 2, 16), "v": (2, S, 2, 16)}
    compare(
        lambda t: flash_attn_func(t["q"], t["k"], t["v"], **options),
        lambda t: plain(t["q"], t["k"], t["v"], **options)[0],
        shapes,
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_arguments_equal_their_parts(kernels, dtype):
    compare(
        lambda t: flash_attn_qkvpacked_func(t["qkv"], causal=True),
        lambda t: plain(*t["qkv"].unbind(2), causal=True)[0],
        {"qkv": (2, 20, 3, 4, 16)},
        dtype,
    )
    compare(
        lambda t: flash_attn_kvpacked_func(t["q"], t["kv"], window_size=(4, 4)),
        lambda t: plain(t["q"], *t["kv"].unbind(2), window_size=(4, 4))[0],
        {"q": (2, 20, 4, 16), "kv": (2, 23, 2, 2, 16)},
        dtype,
    )


CU_Q = torch.tensor([0, 5, 5, 17, 30], dtype=torch.int32)
CU_K = torch.tensor([0, 9, 12, 20, 33], dtype=torch.int32)


def one_by_one(q, k, v, cu_q, cu_k, **options):
    slopes = options.pop("alibi_slopes", None)
    parts = []
    for n in range(len(cu_q) - 1):
        own = slopes if slopes is None or slopes.dim() == 1 else slopes[n]
        parts.append(
            plain(q[None, cu_q[n] : cu_q[n + 1]], k[None, cu_k[n] : cu_k[n + 1]],
                  v[None, cu_k[n] : cu_k[n + 1]], alibi_slopes=own, **options)
        )  # fmt: skip
    return torch.cat([p[0][0] for p in parts]), torch.cat([p[1][0] for p in parts], 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_varlen_equals_its_sequences(kernels, options, dtype):
    cu_q, cu_k, options = here(CU_Q), here(CU_K), here(options)
    if "alibi_slopes" in options:
        slopes = options["alibi_slopes"]
        options = {**options, "alibi_slopes": slopes if slopes.dim() == 1 else slopes.repeat(2, 1)}
    compare(
        lambda t: flash_attn_varlen_func(t["q"], t["k"], t["v"], cu_q, cu_k, 13, 13, **options),
        lambda t: one_by_one(t["q"], t["k"], t["v"], cu_q, cu_k, **options)[0],
        {"q": (30, 4, 16), "k": (33, 2, 16), "v": (33, 2, 16)},
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_varlen_packed_arguments_equal_their_parts(kernels, dtype):
    cu_q, cu_k = here(CU_Q), here(CU_K)
    compare(
        lambda t: flash_attn_varlen_qkvpacked_func(t["qkv"], cu_q, 13, causal=True),
        lambda t: one_by_one(*t["qkv"].unbind(1), cu_q, cu_q, causal=True)[0],
        {"qkv": (30, 3, 4, 16)},
        dtype,
    )
    compare(
        lambda t: flash_attn_varlen_kvpacked_func(t["q"], t["kv"], cu_q, cu_k, 13, 13, causal=True),
        lambda t: one_by_one(t["q"], *t["kv"].unbind(1), cu_q, cu_k, causal=True)[0],
        {"q": (30, 4, 16), "kv": (33, 2, 2, 16)},
        dtype,
    )


def test_keys_in_pages_equal_keys_in_a_row(kernels):
    cu_q, cu_k = here(CU_Q), here(CU_K)
    q, k, v = randn(30, 4, 16, seed=0), randn(33, 2, 16, seed=1), randn(33, 2, 16, seed=2)
    expected = flash_attn_varlen_func(q, k, v, cu_q, cu_k, 13, 13, causal=True)
    table = torch.tensor(
        [[7, 2, 0, 5], [1, 0, 0, 0], [3, 4, 0, 0], [6, 8, 9, 10]], dtype=torch.int32
    )
    pages = [torch.full((11, 4, 2, 16), float("nan")) for _ in range(2)]
    for i in range(4):
        for j in range(cu_k[i], cu_k[i + 1]):
            page, slot = divmod(int(j - cu_k[i]), 4)
            for paged, flat in zip(pages, (k, v), strict=True):
                paged[table[i, page], slot] = flat[j]
    out = flash_attn_varlen_func(q, *pages, cu_q, cu_k, 13, 13, causal=True, block_table=table)
    assert torch.equal(out, expected)
    with pytest.raises(ValueError, match=r"block_table has shape .* too few for the sequences"):
        flash_attn_varlen_func(q, *pages, cu_q, cu_k, 13, 13, block_table=table[:, :2])


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_return_attn_probs_gives_the_log_sums_and_no_probabilities(kernels, options):
    options = here(options)
    q, k = randn(2, 33, 4, 16, seed=0), randn(2, 9, 2, 16, seed=1)
    out, lse, nothing = flash_attn_func(q, k, k, return_attn_probs=True, **options)
    expected = plain(q, k, k, **options)
    torch.testing.assert_close((out, lse), expected, rtol=1e-4, atol=1e-5)
    assert nothing is None
    if "alibi_slopes" not in options:
        flat = q.flatten(0, 1), k.flatten(0, 1), k.flatten(0, 1)
        cu_q, cu_k = torch.tensor([0, 33, 66]).int(), torch.tensor([0, 9, 18]).int()
        _, lse, _ = flash_attn_varlen_func(
            *flat, cu_q, cu_k, 33, 9, return_attn_probs=True, **options
        )
        torch.testing.assert_close(lse, torch.cat(list(expected[1]), 1), rtol=1e-4, atol=1e-5)


def test_a_window_of_one_key_gives_its_value(kernels):
    q, k = randn(2, 20, 2, 16, seed=0), randn(2, 20, 2, 16, seed=1)
    torch.testing.assert_close(flash_attn_func(q, k, k, window_size=(0, 0)), k)


def test_the_causal_example_of_the_documentation(kernels):
    """seqlen_q 2 on seqlen_k 5 keeps 4 and 5 keys; 5 on 2 keeps none, none, none, 1 and 2."""

    def kept(T, S):
        value = torch.eye(S)[None, :, None]  # [1, S, 1, S]
        q, k = torch.zeros(1, T, 1, S), torch.zeros(1, S, 1, S)
        return (flash_attn_func(q, k, value, causal=True)[0, :, 0] > 0).int().tolist()

    assert kept(2, 5) == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert kept(5, 2) == [[0, 0], [0, 0], [0, 0], [1, 0], [1, 1]]


def test_float16_is_computed_in_float32():
    q, k, v = (randn(2, 20, 2, 16, seed=i).half() for i in range(3))
    out = flash_attn_func(q, k, v, causal=True)
    assert out.dtype == torch.float16
    exact = plain(q.double(), k.double(), v.double(), causal=True)[0]
    assert_as_accurate_as_torch(out, exact.half(), exact, "out")


def test_dropout_follows_torchs_generator_and_keeps_the_mean(kernels):
    q = torch.zeros(1, 64, 2, 64)
    value = torch.ones(1, 64, 2, 64)
    torch.manual_seed(1)
    a = flash_attn_func(q, q, value, dropout_p=0.25)
    torch.manual_seed(1)
    assert torch.equal(a, flash_attn_func(q, q, value, dropout_p=0.25))
    assert not torch.equal(a, flash_attn_func(q, q, value, dropout_p=0.25))
    assert abs(float(a.mean()) - 1.0) < 0.05


def test_bad_arguments_are_named():
    q = randn(2, 5, 4, 8, seed=0)
    with pytest.raises(
        ValueError, match=r"kv has shape \[2, 5, 4, 8\], expected \[B, T, 2, H, D\]"
    ):
        flash_attn_kvpacked_func(q, q)
    with pytest.raises(ValueError, match=r"qkv has shape .* expected \[total, 3, H, D\]"):
        flash_attn_varlen_qkvpacked_func(q, CU_Q, 13)
    with pytest.raises(ValueError, match="window_size is"):
        flash_attn_func(q, q, q, window_size=(1,))
    with pytest.raises(ValueError, match=r"flash_attn_varlen: q has shape \[2, 5, 4, 8\]"):
        flash_attn_varlen_func(q, q, q, CU_Q, CU_Q, 5, 5)
    with pytest.raises(ValueError, match="key has 3 heads"):
        flash_attn_func(q, q[:, :, :3], q[:, :, :3])
    with pytest.raises(ValueError, match="cu_seqlens_k has 3 elements, expected 5"):
        flash_attn_varlen_func(q[0], q[0], q[0], CU_Q, CU_K[:3], 5, 5, window_size=(3, 1))
    with pytest.raises(ValueError, match=r"alibi_slopes has shape \[3, 4\], expected \[H\] or"):
        flash_attn_func(q, q, q, alibi_slopes=torch.ones(3, 4))


@pytest.mark.parametrize("packed", [False, True])
def test_no_value_is_read_back_from_a_device(packed):
    """A tensor of the meta device has none, and refuses."""
    with torch.device("meta"):
        q, k, slopes = torch.empty(2, 9, 4, 8), torch.empty(2, 9, 2, 8), torch.empty(2, 4)
        cu_seqlens = torch.empty(5, dtype=torch.int32)
    if packed:
        q, k = q.flatten(0, 1), k.flatten(0, 1)
        out = flash_attn_varlen_func(
            q, k, k, cu_seqlens, cu_seqlens, 9, 9, window_size=(3, 3), alibi_slopes=slopes[0]
        )
    else:
        out = flash_attn_func(q, k, k, window_size=(3, 1), alibi_slopes=slopes)
    assert out.is_meta and out.shape == q.shape


def test_every_name_of_the_module_is_a_documented_function():
    for name in functional.__all__:
        assert getattr(functional, name).__doc__, name


@pytest.mark.parametrize(
    "options", [{}, {"window_size": (3, 1)}, {"alibi_slopes": torch.ones(0, 4)}]
)
@pytest.mark.parametrize("paged", [False, True])
def test_no_sequences_give_nothing(kernels, options, paged):
    options = here(options)
    q, none = torch.empty(0, 4, 8), torch.zeros(1, dtype=torch.int32)
    k, table = q, None
    if paged:
        k, table = torch.empty(0, 16, 4, 8), torch.empty(0, 2, dtype=torch.int32)
    out, lse, _ = flash_attn_varlen_func(
        q, k, k, none, none, 0, 0, block_table=table, return_attn_probs=True, **options
    )
    assert out.shape == (0, 4, 8) and lse.shape == (4, 0)
    empty = torch.empty(0, 5, 4, 8)
    assert flash_attn_func(empty, empty, empty, **options).shape == empty.shape
