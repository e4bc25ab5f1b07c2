"""`with fusedlm.patched()` and `attn_implementation="fusedlm"`."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fusedlm

from .families import DECODERS, batch, make


class PlainBlock(nn.Module):
    """A block as people write it by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.last = nn.RMSNorm(32)
        self.qkv = nn.Linear(32, 96)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).view(*x.shape[:2], 3, 4, 8).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.last(x + mixed.transpose(1, 2).flatten(2))


class OpsSeen(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name().split(".")[0])
        return func(*args, **(kwargs or {}))


def test_a_hand_written_model_runs_on_our_ops_within_and_on_torchs_after():
    torch.manual_seed(0)
    model, x = PlainBlock(), torch.randn(2, 17, 32)
    expected = model(x)
    with fusedlm.patched(), OpsSeen() as seen:
        got = model(x)
    torch.testing.assert_close(got, expected)
    ours = {"fusedlm::layer_norm", "fusedlm::rms_norm", "fusedlm::linear", "fusedlm::attention"}
    assert ours <= seen.names
    with OpsSeen() as seen:
        assert torch.equal(model(x), expected)
    assert not any(name.startswith("fusedlm") for name in seen.names)


def test_a_transformers_model_trains_within():
    model = make("llama")
    model.set_attn_implementation("sdpa")
    expected = model(**batch()).loss
    with fusedlm.patched(), OpsSeen() as seen:
        loss = model(**batch()).loss
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert {"fusedlm::linear_cross_entropy", "fusedlm::ffn", "fusedlm::rope"} <= seen.names


def test_an_error_within_still_takes_everything_back():
    forward = nn.LayerNorm.forward
    with pytest.raises(RuntimeError, match="mine"), fusedlm.patched():
        assert nn.LayerNorm.forward is not forward
        raise RuntimeError("mine")
    assert nn.LayerNorm.forward is forward


@pytest.mark.parametrize("family", ("llama", "mistral", "bert", "gpt2", "gemma2"))
def test_the_attention_implementation_alone_gives_the_models_logits(family):
    import fusedlm.integrations.attention  # noqa: F401, registers the name

    model = make(family).eval()
    inputs = batch(padded=True, left=False)
    real = inputs["attention_mask"].bool()
    expected = model(**inputs).logits[real]
    model.set_attn_implementation("fusedlm")
    torch.testing.assert_close(model(**inputs).logits[real], expected, rtol=1e-4, atol=1e-5)


def test_a_mask_of_the_users_own_is_obeyed():
    model = make("llama").eval()
    tokens = batch()["input_ids"]
    mask = torch.rand(3, 1, 17, 17, generator=torch.Generator().manual_seed(1)) > 0.4
    mask |= torch.eye(17, dtype=torch.bool)
    model.set_attn_implementation("sdpa")
    expected = model(input_ids=tokens, attention_mask=mask).logits
    fusedlm.patch(model)
    got = model(input_ids=tokens, attention_mask=mask).logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_static_cache_with_room_behind_it_generates_the_same():
    model = make("llama").eval()
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    tokens = batch()["input_ids"]
    expected = model.generate(tokens, **options)
    got = fusedlm.patch(copy.deepcopy(model)).generate(
        tokens, cache_implementation="static", disable_compile=True, **options
    )
    assert torch.equal(got, expected)


@pytest.mark.parametrize("family", ("llama", "mistral", "gemma2"))
def test_a_padded_float16_model_runs(family):
    import fusedlm.integrations.attention  # noqa: F401

    model = make(family).eval()
    inputs = batch(padded=True, left=False)
    real = inputs["attention_mask"].bool()
    expected = model(**inputs).logits[real]
    model.half().set_attn_implementation("fusedlm")
    torch.testing.assert_close(model(**inputs).logits[real].float(), expected, rtol=1e-2, atol=5e-3)


@pytest.mark.parametrize("softcap", (None, 2.0))
@pytest.mark.parametrize("window", (None, 4))
@pytest.mark.parametrize("padded", (False, True))
def test_float16_attention_keeps_window_softcap_and_padding(softcap, window, padded):
    from fusedlm.integrations.attention import attend

    q, k, v = 3 * torch.randn(3, 2, 4, 17, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(17) >= torch.tensor([[5], [0]]) if padded else None
    options = {"sliding_window": window, "softcap": softcap, "is_causal": True}
    expected, _ = attend(nn.Module(), q, k, v, mask, **options)
    half, _ = attend(nn.Module(), q.half(), k.half(), v.half(), mask, **options)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), expected, rtol=1e-2, atol=1e-2)
    plain, _ = attend(nn.Module(), q, k, v, None, is_causal=True)
    if padded or window or softcap:
        assert (plain - expected).abs().max() > 0.1


def test_sinks_and_windows_that_torchs_attention_would_drop_are_refused():
    from fusedlm.integrations.attention import attend

    q = torch.randn(1, 2, 9, 8, dtype=torch.float64)
    module = nn.Module()
    with pytest.raises(NotImplementedError, match="sliding window as a mask"):
        attend(module, q, q, q, None, sliding_window=4)
    with pytest.raises(NotImplementedError, match="softcap"):
        attend(module, q, q, q, None, softcap=5.0)
    with pytest.raises(NotImplementedError, match="sinks"):
        attend(module, q.float(), q.float(), q.float(), None, s_aux=torch.zeros(2))
    attend(module, q, q, q, None)


def test_heads_too_wide_for_the_cuda_kernels_keep_torchs_attention(simt, monkeypatch):
    wide = {**DECODERS["gemma"][1], "head_dim": 264, "num_hidden_layers": 1}
    monkeypatch.setitem(DECODERS, "wide", ("GemmaConfig", wide))
    model, tokens = make("wide"), batch()["input_ids"]
    expected = model(input_ids=tokens).logits
    fusedlm.patch(model)
    torch.testing.assert_close(model(input_ids=tokens).logits, expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(NotImplementedError, match=r"wider than 256; here D=264.*'sdpa'"):
        model(**batch(padded=True))


def test_attention_with_a_learned_bias_says_what_to_use():
    import fusedlm.integrations.attention  # noqa: F401

    model = make("t5")
    model.set_attn_implementation("fusedlm")
    with pytest.raises(NotImplementedError, match="sdpa"):
        model(**batch(padded=True, left=False))
