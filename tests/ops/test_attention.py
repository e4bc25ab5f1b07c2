"""Flash attention against float64, on every instruction set."""

from __future__ import annotations

import pytest
import torch

from fusedlm import ops
from tests.support import reference
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.compare import assert_same_bits, randn, results_by_threads
from tests.support.dropout import dropout_mask
from tests.support.dtypes import DTYPES

NAMES = ("out", "dquery", "dkey", "dvalue")


def inputs(B, T, S, H, G, D, dtype):
    shapes = ((B, T, H, D), (B, S, G, D), (B, S, G, D), (B, T, H, D))
    return [randn(*shape, seed=i).to(dtype) for i, shape in enumerate(shapes)]


def run(function, tensors, dtype, **options):
    *leaves, dout = (t.to(dtype).clone() for t in tensors)
    for leaf in leaves:
        leaf.requires_grad_()
    out = function(*leaves, **options)
    out.backward(dout)
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def compare(shape, dtype, **options):
    tensors = inputs(*shape, dtype)
    ours = run(ops.attention, tensors, dtype, **options)
    plain = run(reference.attention, tensors, dtype, **options)
    exact = run(reference.attention, tensors, torch.float64, **options)
    for name, a, b, c in zip(NAMES, ours, plain, exact, strict=True):
        assert_as_accurate_as_torch(a, b, c, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 1, 1),
        (2, 3, 3, 2, 1, 5),
        (1, 17, 17, 2, 2, 16),
        (2, 113, 113, 4, 2, 64),
        (1, 5, 300, 3, 3, 33),  # cross-attention to a longer and a shorter sequence
        (1, 300, 5, 2, 2, 64),
        (1, 257, 1023, 2, 1, 48),
        (1, 129, 1025, 1, 1, 130),
    ],
)
def test_equals_float64(isa, shape, causal, dtype):
    compare(shape, dtype, causal=causal)


# One width for each instance of the CUDA kernels, and one between two. T and S fill no tile; most take
# several tiles of queries (up to 128) and of keys.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"causal": True, "window": 100, "softcap": 5.0}])
@pytest.mark.parametrize("D", [32, 64, 72, 96, 128, 192, 256])
def test_every_head_width_equals_float64(isa, D, options, dtype):
    compare((1, 150, 170, 2, 1, D), dtype, causal=True)
    compare((1, 70, 90, 2, 1, D), dtype, **options)


# A long cache is cut into parts, which are added up; heads that share keys are rows of one tile.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("D", [32, 64, 72, 96, 128, 192, 256])
@pytest.mark.parametrize("shape", [(1, 1, 700, 4, 1), (2, 5, 530, 8, 2), (1, 16, 66, 2, 2)])
def test_few_queries_equal_float64(isa, shape, D, dtype):
    compare((*shape, D), dtype, causal=True)


def test_few_queries_see_only_the_keys_that_count(isa):
    """Lengths of which some parts have all, some or none, and a window that leaves the first out."""
    for dtype in DTYPES:
        lengths = torch.tensor([1300, 1, 0, 777])
        compare((4, 2, 1300, 4, 2, 32), dtype, causal=True, kv_lengths=lengths)
        compare((1, 3, 1300, 4, 2, 32), dtype, causal=True, window=700)


SHAPE = (2, 130, 200, 4, 2, 32)
FLAGS = {  # made by the tests: on a GPU, tensors are there
    "window": lambda: {"window": 20},
    "causal window": lambda: {"causal": True, "window": 50},
    "scale": lambda: {"scale": 0.5},
    "softcap": lambda: {"softcap": 2.0, "causal": True},
    "alibi": lambda: {"alibi_slopes": torch.tensor([0.5, 0.25, 0.1, 0.05]), "causal": True},
    "boolean mask": lambda: {"mask": randn(130, 200, seed=5) > -0.5},
    "additive mask per batch": lambda: {"mask": randn(2, 1, 130, 200, seed=6)},
    "additive mask per head": lambda: {"mask": randn(4, 1, 200, seed=7), "causal": True},
    "key padding": lambda: {"key_padding_mask": torch.arange(200) < torch.tensor([[200], [150]])},
    "lengths": lambda: {"kv_lengths": torch.tensor([200, 131]), "causal": True},
    "everything": lambda: {
        "causal": True, "window": 90, "softcap": 3.0, "scale": 0.3,
        "alibi_slopes": torch.tensor([0.5, 0.25, 0.1, 0.05]), "mask": randn(1, 4, 130, 200, seed=8),
        "key_padding_mask": torch.arange(200) < torch.tensor([[200], [150]]),
    },
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_with_flags_equals_float64(isa, flags, dtype):
    compare(SHAPE, dtype, **flags())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_few_queries_with_flags_equal_float64(isa, flags, dtype):
    flags = flags()
    if "mask" in flags:  # of the last three queries, as broadcast
        flags["mask"] = flags["mask"][..., -3:, :]
    compare((2, 3, *SHAPE[2:]), dtype, **flags)


def test_a_negative_scale_equals_float64(isa):
    for dtype in DTYPES:
        compare((1, 40, 50, 2, 1, 32), dtype, scale=-0.3, causal=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths_k", [None, [0, 5, 60, 61, 230]])
def test_packed_sequences_equal_float64(isa, lengths_k, dtype):
    cu_q = torch.tensor([0, 10, 10, 75, 130], dtype=torch.int32)
    cu_k = None if lengths_k is None else torch.tensor(lengths_k, dtype=torch.int32)
    S = 130 if lengths_k is None else 230
    compare((1, 130, S, 4, 2, 32), dtype, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k, causal=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_sequences_longer_than_a_tile_equal_float64(isa, dtype):
    cu_q = torch.tensor([0, 140, 140, 143, 300], dtype=torch.int32)
    compare((1, 300, 300, 2, 1, 32), dtype, cu_seqlens_q=cu_q, causal=True)


def test_tokens_of_no_sequence_give_zeros(isa):
    query, key, value, dout = inputs(1, 20, 20, 2, 2, 8, torch.float32)
    leaves = [t.requires_grad_() for t in (query, key, value)]
    out = ops.attention(*leaves, cu_seqlens_q=torch.tensor([0, 7, 12], dtype=torch.int32))
    out.backward(dout)
    for t in (out, *(leaf.grad for leaf in leaves)):
        assert torch.equal(t[:, 12:], torch.zeros_like(t[:, 12:]))
        assert t[:, :12].abs().sum() > 0


def test_no_sequences_give_zeros(isa):
    leaves = [t.requires_grad_() for t in inputs(1, 200, 200, 2, 1, 8, torch.float32)[:3]]
    out = ops.attention(*leaves, cu_seqlens_q=torch.tensor([0]))
    out.backward(torch.ones_like(out))
    assert not any(t.any() for t in (out, *(leaf.grad for leaf in leaves)))
    with pytest.raises(ValueError, match="cu_seqlens_q must start with 0"):
        ops.attention(*leaves, cu_seqlens_q=torch.tensor([], dtype=torch.int32))


def test_sequences_that_are_all_empty_give_zeros(isa):
    query, key, value, dout = inputs(1, 20, 30, 2, 1, 8, torch.float32)
    leaves = [t.requires_grad_() for t in (query, key, value)]
    out, lse = ops.attention(
        *leaves,
        cu_seqlens_q=torch.tensor([0, 0, 0]),
        cu_seqlens_k=torch.tensor([0, 7, 12]),
        return_lse=True,
    )
    out.backward(dout)
    assert not any(t.any() for t in (out, *(leaf.grad for leaf in leaves)))
    assert (lse == float("inf")).all()


@pytest.mark.parametrize("T", [2, 30])
def test_a_query_that_sees_no_key_gives_zeros(isa, T):
    query, key, value, dout = inputs(1, T, 30, 2, 1, 16, torch.float32)
    leaves = [t.requires_grad_() for t in (query, key, value)]
    mask = torch.ones(T, 30, dtype=torch.bool)
    mask[1] = False
    out, lse = ops.attention(*leaves, mask=mask, return_lse=True)
    out.backward(dout)
    assert torch.equal(out[:, 1], torch.zeros_like(out[:, 1]))
    assert torch.isinf(lse[:, :, 1]).all() and torch.isfinite(lse[:, :, 0]).all()
    assert torch.equal(query.grad[:, 1], torch.zeros_like(query.grad[:, 1]))
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


def test_lse_is_the_logarithm_of_the_sum_of_exponentials(isa):
    query, key, value, _ = inputs(2, 70, 150, 2, 2, 24, torch.float32)
    _, lse = ops.attention(query, key, value, return_lse=True)
    scores = torch.einsum("bthd,bshd->bhts", query, key) * 24**-0.5
    torch.testing.assert_close(lse, torch.logsumexp(scores, -1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", [3, 130])
def test_dropout_equals_float64_with_the_same_mask(isa, T, dtype):
    B, S, H, p = 2, 140, 2, 0.3
    kept = dropout_mask(B, T, S, H, p, seed=11)
    assert abs(float(kept.float().mean()) - 0.7) < 0.05

    def plain(query, key, value):
        q, k, v = (t.transpose(1, 2) for t in (query, key, value))
        weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1)
        return ((weights * kept / (1 - p)) @ v).transpose(1, 2)

    tensors = inputs(B, T, S, H, H, 16, dtype)
    ours = run(ops.attention, tensors, dtype, dropout_p=p, seed=11)
    for name, a, b, c in zip(
        NAMES, ours, run(plain, tensors, dtype), run(plain, tensors, torch.float64), strict=True
    ):
        assert_as_accurate_as_torch(a, b, c, name)


def test_dropout_follows_the_seed_and_torchs_generator(kernels):
    a = dropout_mask(1, 40, 40, 2, 0.5, seed=1)
    assert torch.equal(a, dropout_mask(1, 40, 40, 2, 0.5, seed=1))
    assert not torch.equal(a, dropout_mask(1, 40, 40, 2, 0.5, seed=2))
    assert not torch.equal(a[:, 0], a[:, 1])
    torch.manual_seed(3)
    b = dropout_mask(1, 40, 40, 2, 0.5, seed=None)
    assert not torch.equal(b, dropout_mask(1, 40, 40, 2, 0.5, seed=None))
    torch.manual_seed(3)
    assert torch.equal(b, dropout_mask(1, 40, 40, 2, 0.5, seed=None))


@pytest.mark.parametrize("dtype", DTYPES)
def test_few_queries_on_a_cache_equal_the_whole(isa, dtype):
    query, key, value, _ = inputs(2, 90, 90, 4, 2, 32, dtype)
    whole = ops.attention(query, key, value, causal=True)
    spare = torch.full((2, 30, 2, 32), float("nan"), dtype=dtype)  # never read
    cache = [torch.cat([t, spare], 1) for t in (key, value)]
    for t in (1, 4, 20):
        part = ops.attention(query[:, -t:], *cache, causal=True, kv_lengths=torch.tensor([90, 90]))
        torch.testing.assert_close(
            part, whole[:, -t:], rtol=2e-2, atol=1e-5 if dtype == torch.float32 else 1e-2
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_number_of_threads(isa, dtype):
    tensors = inputs(1, 300, 700, 2, 1, 32, dtype)
    options = {"causal": True, "dropout_p": 0.1, "seed": 3}
    assert_same_bits(results_by_threads(lambda: run(ops.attention, tensors, dtype, **options)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T, D", [(50, 24), (50, 27), (3, 24), (3, 27)])
def test_views_of_one_projection_equal_their_copies(isa, T, D, dtype):
    qkv = randn(2, T, 8, D, seed=0).to(dtype)
    views = qkv[:, :, :4], qkv[:, :, 4:6], qkv[:, :, 6:]
    expected = ops.attention(*(t.contiguous() for t in views), causal=True)
    assert torch.equal(ops.attention(*views, causal=True), expected)
    last_strided = [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in views]
    assert torch.equal(ops.attention(*last_strided, causal=True), expected)


def test_large_scores_do_not_overflow(isa):
    query, key, value, _ = (t * 100 for t in inputs(1, 40, 40, 2, 2, 16, torch.float32))
    out = ops.attention(query, key, value)
    expected = reference.attention(query.double(), key.double(), value.double()).float()
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_views_that_start_between_packs_equal_their_copies(isa, dtype):
    for T in (50, 3):
        wide = [randn(1, T, 2, 33, seed=i).to(dtype)[..., 1:] for i in range(4)]
        expected = run(ops.attention, [t.contiguous() for t in wide], dtype, causal=True)
        leaves = [t.requires_grad_() for t in wide[:3]]
        out = ops.attention(*leaves, causal=True)
        grads = torch.autograd.grad(out, leaves, wide[3])
        assert all(torch.equal(a, b) for a, b in zip([out, *grads], expected, strict=True))


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4), (2, 4, 0)])
def test_empty_dimensions(isa, shape):
    B, T, S = shape
    tensors = inputs(B, T, S, 2, 1, 8, torch.float32)
    out, *grads = run(ops.attention, tensors, torch.float32)
    assert out.shape == (B, T, 2, 8)
    assert not out.any() and not any(g.any() for g in grads)


@pytest.mark.parametrize(("T", "S", "G"), [(3, 40, 1), (0, 5, 2), (3, 0, 1), (3, 4, 0)])
def test_no_heads_give_nothing_and_no_gradient(isa, T, S, G):
    tensors = [torch.zeros(2, T, 0, 8), torch.ones(2, S, G, 8), torch.ones(2, S, G, 8)]
    out, *grads = run(ops.attention, [*tensors, torch.zeros(2, T, 0, 8)], torch.float32)
    assert out.shape == (2, T, 0, 8) and not any(g.any() for g in grads)


def test_bad_arguments_are_named():
    query, key, value, _ = inputs(2, 5, 7, 4, 2, 8, torch.float32)
    with pytest.raises(ValueError, match=r"attention: query has shape \[5, 4, 8\]"):
        ops.attention(query[0], key, value)
    with pytest.raises(ValueError, match="key has 3 heads, expected a divisor of the 4"):
        ops.attention(query, torch.ones(2, 7, 3, 8), torch.ones(2, 7, 3, 8))
    with pytest.raises(ValueError, match="attention: key"):
        ops.attention(query, key[..., :6], value)
    with pytest.raises(ValueError, match="attention: value"):
        ops.attention(query, key, value[:, :3])
    with pytest.raises(ValueError, match="attention: key has dtype bfloat16"):
        ops.attention(query, key.bfloat16(), value)
    with pytest.raises(ValueError, match=r"mask has shape \[9, 7\], expected one that broadcasts"):
        ops.attention(query, key, value, mask=torch.ones(9, 7))
    with pytest.raises(ValueError, match="attention: mask has dtype int64"):
        ops.attention(query, key, value, mask=torch.ones(5, 7, dtype=torch.int64))
    with pytest.raises(NotImplementedError, match="mask requires a gradient"):
        ops.attention(query, key, value, mask=torch.ones(5, 7, requires_grad=True))
    with pytest.raises(ValueError, match="window is 0"):
        ops.attention(query, key, value, window=0)
    with pytest.raises(ValueError, match="dropout_p is 1"):
        ops.attention(query, key, value, dropout_p=1.0)
    with pytest.raises(ValueError, match=r"kv_lengths\[1\] is 9, expected 0 to 7"):
        ops.attention(query, key, value, kv_lengths=torch.tensor([7, 9]))
    with pytest.raises(ValueError, match=r"kv_lengths\[1\] is 2147483647, expected 0 to 7"):
        ops.attention(query, key, value, kv_lengths=torch.tensor([7, 2**32 + 5]))
    with pytest.raises(ValueError, match="expected B = 1 with cu_seqlens_q"):
        ops.attention(query, query, query, cu_seqlens_q=torch.tensor([0, 5]))
    with pytest.raises(ValueError, match="cu_seqlens_q falls from 4 to 2"):
        ops.attention(query[:1], query[:1], query[:1], cu_seqlens_q=torch.tensor([0, 4, 2]))
    with pytest.raises(ValueError, match="cu_seqlens_q ends at 9, expected at most the 5"):
        ops.attention(query[:1], query[:1], query[:1], cu_seqlens_q=torch.tensor([0, 9]))


def test_heads_too_wide_for_the_cuda_kernels_are_refused(simt):
    for T in (1, 30):
        query = torch.ones(1, T, 1, 257)
        with pytest.raises(NotImplementedError, match="query has D=257, expected at most 256"):
            ops.attention(query, torch.ones(1, 30, 1, 257), torch.ones(1, 30, 1, 257))


def test_strided_options_equal_their_copies(isa):
    query, key, value, _ = inputs(4, 9, 11, 2, 2, 16, torch.float32)
    wide = randn(11, 4, seed=7) < 0.5
    padding, slopes = wide.t(), torch.tensor([0.5, 9.0, 0.25, 9.0])[::2]
    lengths = torch.tensor([11, 0, 7, 0, 1, 0, 4, 0], dtype=torch.int32)[::2]

    def call(**options):
        leaves = [t.clone().requires_grad_() for t in (query, key, value)]
        out = ops.attention(*leaves, **options)
        return [out, *torch.autograd.grad(out.square().sum(), leaves)]

    for name, value_of in (
        ("key_padding_mask", padding), ("alibi_slopes", slopes), ("kv_lengths", lengths),
    ):  # fmt: skip
        assert not value_of.is_contiguous()
        for a, b in zip(
            call(**{name: value_of}), call(**{name: value_of.contiguous()}), strict=True
        ):
            assert torch.equal(a, b), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_packed_qkv_equals_its_parts(isa, kv_heads, dtype):
    packed = randn(2, 37, 4 + 2 * kv_heads, 16, seed=0).to(dtype).requires_grad_()
    dout = randn(2, 37, 4, 16, seed=1).to(dtype)
    options = {"causal": True, "window": 20, "softcap": 5.0}
    out = ops.attention_qkv(packed, 4, **options)
    (grad,) = torch.autograd.grad(out, packed, dout)
    parts = [t.detach().requires_grad_() for t in packed.split((4, kv_heads, kv_heads), dim=2)]
    expected = ops.attention(*parts, **options)
    assert torch.equal(out, expected)
    assert torch.equal(grad, torch.cat(torch.autograd.grad(expected, parts, dout), dim=2))


def test_packed_qkv_of_sequences_names_bad_shapes_and_compiles(kernels):
    packed = randn(1, 30, 6, 8, seed=0).requires_grad_()
    lengths = torch.tensor([0, 11, 27])  # the last three tokens belong to none
    out = ops.attention_qkv(packed, 2, cu_seqlens=lengths)
    out.sum().backward()
    assert not out[0, 27:].any() and not packed.grad[0, 27:].any() and packed.grad[0, :27].any()
    for heads in (0, 3, 6):
        with pytest.raises(ValueError, match=r"attention_qkv: qkv has shape \[1, 30, 6, 8\]"):
            ops.attention_qkv(packed, heads)
    none = (None,) * 7
    torch.library.opcheck(
        torch.ops.fusedlm.attention_qkv.default, (packed, 2, True, 0, 0.3, 0.0, 0.0, 0, *none)
    )
    compiled = torch.compile(
        lambda x: ops.attention_qkv(x, 2, causal=True), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(packed), ops.attention_qkv(packed, 2, causal=True))


def test_opcheck_compile_and_autocast():
    query, key, value, _ = inputs(1, 6, 6, 2, 1, 8, torch.float32)
    leaves = [t.requires_grad_() for t in (query, key, value)]
    none = (None,) * 7
    torch.library.opcheck(
        torch.ops.fusedlm.attention.default, (*leaves, True, 0, 0.3, 0.0, 0.0, 0, *none)
    )

    def model(query, key, value):
        return ops.attention(query, key, value, causal=True, window=3).sum()

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*leaves), model(*leaves))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.attention(*leaves).dtype == torch.bfloat16
