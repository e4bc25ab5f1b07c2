"""scaled_dot_product_attention and the norms with torch's signatures, against torch and float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fusedlm import functional, ops
from tests.support.compare import assert_equals_float64, here, randn

DTYPES = [torch.float32, torch.bfloat16]
OF_ATTENTION = [*DTYPES, torch.float16]


def documented(
    query, key, value, attn_mask=None, is_causal=False, scale=None, enable_gqa=False
) -> torch.Tensor:
    """The equivalent in plain torch that the documentation of F's function gives.

    It is the yardstick in bfloat16: F itself computes a few shapes, such as broadcast ones, in float32.
    """
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (t.repeat_interleave(groups, -3) for t in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.softmax(scores, -1) @ value


def compare(query, key, value, dtype, **options):
    """Ours against torch; in float64 torch's own function says what is right."""
    H, T, E = query[-3], query[-2], value[-1]
    lead = torch.broadcast_shapes(query[:-3], key[:-3], value[:-3])
    heads = H if options.get("enable_gqa") else max(H, key[-3], value[-3])
    named = {
        name: randn(*shape, seed=i)
        for i, (name, shape) in enumerate({"query": query, "key": key, "value": value}.items())
    }

    def call(function):
        def run(t):
            mask, exact = options.get("attn_mask"), t["query"].dtype == torch.float64
            if mask is not None and mask.is_floating_point():
                mask = mask.to(t["query"].dtype)
            chosen = F.scaled_dot_product_attention if exact else function
            return chosen(t["query"], t["key"], t["value"], **{**options, "attn_mask": mask})

        return run

    grad = randn(*lead, heads, T, E, seed=9)
    ours = call(functional.scaled_dot_product_attention)
    assert_equals_float64(ours, call(documented), named, [grad], dtype)


@pytest.mark.parametrize("dtype", OF_ATTENTION)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(
    "query, key",
    [
        ((2, 3, 17, 16), (2, 3, 17, 16)),
        ((2, 3, 5, 16), (2, 3, 40, 16)),  # causal is aligned at the top left
        ((2, 3, 40, 16), (2, 3, 5, 16)),
        ((3, 29, 16), (3, 29, 16)),
        ((2, 2, 3, 29, 16), (2, 2, 3, 29, 16)),
        ((1, 3, 29, 16), (2, 3, 27, 16)),
        ((2, 2, 1, 29, 16), (2, 3, 27, 16)),
        ((2, 1, 29, 16), (1, 4, 27, 16)),
        ((2, 4, 29, 16), (2, 1, 27, 16)),
    ],
    ids=str,
)
def test_layouts_and_broadcasting_equal_torch(kernels, query, key, is_causal, dtype):
    compare(query, key, key, dtype, is_causal=is_causal)


def mask_of(*shape):
    generator = torch.Generator("cpu").manual_seed(3)
    return here(torch.rand(shape, generator=generator, device="cpu")) > 0.4


@pytest.mark.parametrize("dtype", OF_ATTENTION)
@pytest.mark.parametrize(
    "options",
    [
        {"scale": 0.4},
        {"attn_mask": mask_of(9, 11)},
        {"attn_mask": mask_of(2, 1, 1, 11)},
        {"attn_mask": mask_of(4, 9, 11)},
        {"attn_mask": randn(2, 4, 9, 11, seed=7)},
        {"attn_mask": randn(9, 1, seed=7)},
    ],
    ids=lambda o: " ".join(f"{k}{list(getattr(v, 'shape', ''))}" for k, v in o.items()),
)
def test_options_equal_torch(kernels, options, dtype):
    compare((2, 4, 9, 16), (2, 4, 11, 16), (2, 4, 11, 16), dtype, **here(options))


@pytest.mark.parametrize("dtype", OF_ATTENTION)
def test_grouped_heads_and_other_widths_of_values_equal_torch(kernels, dtype):
    compare((2, 6, 9, 16), (2, 2, 11, 16), (2, 2, 11, 16), dtype, enable_gqa=True)
    compare((2, 6, 9, 16), (2, 6, 11, 16), (2, 6, 11, 5), dtype)
    compare((2, 6, 9, 16), (2, 6, 11, 16), (2, 6, 11, 24), dtype, is_causal=True)


def test_a_mask_on_five_dimensions_equals_torch(kernels):
    for mask in (mask_of(3, 4, 9, 9), mask_of(2, 1, 1, 9, 9), mask_of(9, 9)):
        compare((2, 3, 4, 9, 8), (2, 3, 4, 9, 8), (2, 3, 4, 9, 8), torch.float32, attn_mask=mask)


def test_a_query_that_sees_no_key_gives_zeros_as_in_torch(kernels):
    query, key = randn(1, 2, 4, 8, seed=0), randn(1, 2, 6, 8, seed=1)
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[2] = False
    out = functional.scaled_dot_product_attention(query, key, key, mask)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(query, key, key, mask))
    assert not out[:, :, 2].any()


def test_what_the_kernel_cannot_goes_to_torch(kernels):
    query = randn(1, 2, 4, 8, seed=0)
    q = query.double()
    assert torch.equal(
        functional.scaled_dot_product_attention(q, q, q),
        F.scaled_dot_product_attention(q, q, q),
    )
    mask = torch.zeros(4, 4, requires_grad=True)
    functional.scaled_dot_product_attention(query, query, query, mask).square().sum().backward()
    assert mask.grad.abs().sum() > 0
    assert not functional.scaled_dot_product_attention(query, query, query, dropout_p=1.0).any()


def test_heads_too_wide_for_the_cuda_kernels_compile_on_the_cpu():
    query = randn(1, 2, 9, 257, seed=0)

    def call(query):
        return functional.scaled_dot_product_attention(query, query, query)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(query), call(query))


@pytest.mark.parametrize("D, E", [(257, 257), (8, 257)])
def test_heads_too_wide_for_the_cuda_kernels_go_to_torch(simt, D, E):
    query, value = randn(1, 2, 9, D, seed=0), randn(1, 2, 9, E, seed=1)
    ours = functional.scaled_dot_product_attention(query, query, value, is_causal=True)
    assert torch.equal(ours, F.scaled_dot_product_attention(query, query, value, is_causal=True))


def test_dropout_follows_torchs_generator(kernels):
    query = randn(1, 2, 30, 8, seed=0)

    def call():
        torch.manual_seed(3)
        return ops.scaled_dot_product_attention(query, query, query, dropout_p=0.5)

    assert torch.equal(call(), call())
    assert not torch.equal(call(), ops.scaled_dot_product_attention(query, query, query))


def test_bad_arguments_of_attention_are_named():
    query, key = randn(2, 4, 9, 8, seed=0), randn(2, 3, 7, 8, seed=1)
    call = functional.scaled_dot_product_attention
    with pytest.raises(ValueError, match="attn_mask is given along with is_causal"):
        call(query, query, query, torch.ones(9, 9, dtype=torch.bool), is_causal=True)
    with pytest.raises(ValueError, match=r"have \[4, 3, 3\] heads, expected the same number"):
        call(query, key, key)
    with pytest.raises(
        ValueError, match="with enable_gqa those of key and value are the same number"
    ):
        call(query, key, key, enable_gqa=True)
    with pytest.raises(ValueError, match="do not go together"):
        call(query, query[..., :5], query)
    with pytest.raises(ValueError, match=r"leading dimensions of .* do not broadcast"):
        call(query, randn(3, 4, 9, 8, seed=1), randn(3, 4, 9, 8, seed=1))
    with pytest.raises(ValueError, match=r"mask has shape \[5, 9\]"):
        call(query, query, query, torch.ones(5, 9, dtype=torch.bool))


NORMS = {"layer_norm": ("weight", "bias"), "rms_norm": ("weight",)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(33,), (4, 12)], ids=str)
@pytest.mark.parametrize("given", ["all", "no weight", "nothing"])
@pytest.mark.parametrize("norm", NORMS)
def test_norms_equal_torch(kernels, norm, given, shape, dtype):
    named = {"input": randn(7, 3, *shape, seed=0) + 0.5}
    for i, name in enumerate(NORMS[norm]):
        if given == "all" or (given == "no weight" and name == "bias"):
            named[name] = randn(*shape, seed=i + 1)

    def call(module):
        return lambda t: getattr(module, norm)(
            t["input"], shape, **{k: t[k] for k in NORMS[norm] if k in t}
        )

    assert_equals_float64(call(functional), call(F), named, [randn(7, 3, *shape, seed=9)], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_eps_and_its_default_are_torchs(kernels, norm, dtype):
    x = 1e-3 * randn(5, 40, seed=0).to(dtype)
    for eps in ((), (1e-2,)):
        arguments = (x, [40], None) if norm == "rms_norm" else (x, [40], None, None)
        ours = getattr(functional, norm)(*arguments, *eps)
        torch.testing.assert_close(ours, getattr(F, norm)(*arguments, *eps))


@pytest.mark.parametrize("norm", NORMS)
def test_norms_leave_float64_to_torch_and_name_bad_arguments(norm):
    call, x = getattr(functional, norm), randn(5, 8, seed=0)
    assert torch.equal(call(x.double(), [8]), getattr(F, norm)(x.double(), [8]))
    with pytest.raises(ValueError, match=rf"{norm}: normalized_shape is \[7\]"):
        call(x, [7])
    with pytest.raises(ValueError, match=rf"{norm}: weight has shape \[7\]"):
        call(x, [8], torch.ones(7))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given", ["all", "no weight", "nothing"])
@pytest.mark.parametrize("shape", [(), (9,), (5, 4)], ids=str)
def test_group_norm_equals_torch(kernels, shape, given, dtype):
    named = {"input": randn(3, 12, *shape, seed=0) + 0.5}
    if given == "all":
        named["weight"] = randn(12, seed=1)
    if given != "nothing":
        named["bias"] = randn(12, seed=2)

    def ours(t):
        return functional.group_norm(t["input"], 4, t.get("weight"), t.get("bias"), 1e-3)

    def theirs(t):  # torch's backward fails for a bias without a weight
        weight = t["weight"] if "weight" in t else t["input"].new_ones(12)
        return F.group_norm(t["input"], 4, weight, t.get("bias"), 1e-3)

    assert_equals_float64(ours, theirs, named, [randn(3, 12, *shape, seed=9)], dtype)


def test_group_norm_leaves_float64_to_torch_and_names_bad_arguments():
    x = randn(5, 8, seed=0)
    assert torch.equal(functional.group_norm(x.double(), 2), F.group_norm(x.double(), 2))
    with pytest.raises(ValueError, match="group_norm: groups is 3, expected"):
        functional.group_norm(x, 3)
    with pytest.raises(ValueError, match=r"group_norm: weight has shape \[7\]"):
        functional.group_norm(x, 2, torch.ones(7))


def test_modules_of_torch_run_on_the_drop_ins(kernels, monkeypatch):
    """The signatures hold: torch's own modules call them in place of the originals."""
    x = randn(2, 5, 8, seed=0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).train()
    expected = layer(x)
    for name in ("layer_norm", "scaled_dot_product_attention"):
        monkeypatch.setattr(F, name, getattr(functional, name))
    torch.testing.assert_close(layer(x), expected)
