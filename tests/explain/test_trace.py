"""The recorded forward in plain torch computes what the fused models do: logits, loss, every gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fusedlm.explain import attention_maps, trace
from fusedlm.explain.learning import gradients_of, trainable
from fusedlm.models import (
    Decoder,
    DecoderClassifier,
    Encoder,
    EncoderConfig,
    EncoderDecoder,
    ModelConfig,
    add_lora,
    merge_lora,
)
from fusedlm.models.packed import Packed
from fusedlm.train.pair_batches import PairBatch
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.pairs import small_encoder_decoder
from tests.support.small import CONFIGS, small_model

SHAPE = {"vocab_size": 61, "context": 24, "layers": 2, "width": 32, "heads": 4}
DECODERS = {
    **CONFIGS,
    "gpt2 without biases, untied": ModelConfig.gpt2(**SHAPE, bias=False, tied=False),
    "gpt2 with relu and wide heads": ModelConfig.gpt2(**SHAPE, activation="relu", head_width=12),
    "gpt2 with norms on heads and a window": ModelConfig.gpt2(
        **SHAPE, qk_norm=True, qkv_bias=False, windows=[7, 0], activation="gelu"
    ),
    "llama with interleaved rope, tied": ModelConfig.llama(
        **SHAPE, rope_interleaved=True, tied=True, rope_base=500.0, ffn_width=40
    ),
    "llama with one kv head, geglu, biases, scaled rope": ModelConfig.llama(
        **SHAPE, kv_heads=1, activation="geglu", bias=True, head_width=16, ffn_width=40,
        rope_scaling={"rope_type": "linear", "factor": 3.0},
    ),
    "llama with geglu_tanh": ModelConfig.llama(**SHAPE, activation="geglu_tanh", ffn_width=40),
    "mistral": ModelConfig.llama(**SHAPE, kv_heads=2, windows=[5, 5], ffn_width=40),
}  # fmt: skip
LABELS = ["no", "perhaps", "yes"]
ENCODERS = {
    f"{style}, {task}": EncoderConfig(
        vocab_size=61, context=24, layers=2, width=32, heads=4, ffn_width=48, style=style, task=task,
        types=0 if style == "distilbert" else 2, pad_id=1 if style == "roberta" else 0,
        labels=LABELS if task else None, activation="gelu_tanh" if task == "token" else "gelu",
        pooling="cls" if style == "distilbert" else "mean",
    )
    for style in ("bert", "roberta", "distilbert")
    for task in (None, "sequence", "token")
}  # fmt: skip
# What `classify train` makes.
ENCODERS["bert, sequence, mean"] = replace(ENCODERS["bert, sequence"], head="mean")
ENCODERS["bert, sequence, mean and n-grams"] = replace(
    ENCODERS["bert, sequence"], head="mean", ngrams=2, ngram_buckets=5003, cut="middle",
    max_tokens=20, ngram_tokens=24,
)  # fmt: skip

READERS = {
    f"{style}, answers": replace(ENCODERS[f"{style}, token"], task="span", labels=None)
    for style in ("bert", "roberta")
}
DECODER_CLASSIFIERS = {
    "gpt2, the last token": ("gpt2", {}),
    "llama, the mean": ("llama", {"pooling": "mean"}),
    "qwen, each token": ("qwen", {"task": "token"}),
}


def decoder_classifier(name: str, **config) -> DecoderClassifier:
    base, fields = DECODER_CLASSIFIERS[name]
    model = DecoderClassifier.of(small_model(replace(CONFIGS[base], **config)), LABELS, **fields)
    torch.manual_seed(2)
    torch.nn.init.normal_(model.classifier.weight)
    torch.nn.init.normal_(model.classifier.bias)
    return model.eval()


def some_tokens(rows: int = 3, T: int = 17) -> torch.Tensor:
    return torch.randint(3, 61, (rows, T), generator=torch.Generator().manual_seed(3))


def small_encoder(config: EncoderConfig) -> Encoder:
    torch.manual_seed(1)
    model = Encoder(config)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 4.0 if parameter.dim() > 1 else 1.0
            parameter.mul_(scale).add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def assert_gradients_are_equal(model, loss, tokens, targets, **beside) -> None:
    """The fused loss and gradients beside those of the trace in float32 and float64."""
    model.zero_grad()
    loss.backward()
    _, single_loss, single = gradients_of(model, tokens, targets, trainable(model), **beside)
    exact = trainable(model, torch.float64)
    _, double_loss, double = gradients_of(model, tokens, targets, exact, **beside)
    assert_as_accurate_as_torch(loss, single_loss, double_loss, "loss")
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == double.keys()
    for name, gradient in found.items():
        assert_as_accurate_as_torch(gradient, single[name], double[name], name)


@pytest.mark.parametrize("config", DECODERS.values(), ids=DECODERS.keys())
def test_a_decoders_logits_loss_and_gradients_are_those_of_the_fused_one(config):
    model, ids = small_model(config), some_tokens(T=18)
    tokens, targets = ids[:, :-1].contiguous(), ids[:, 1:].clone()
    targets[0, 2:5] = -100
    single, double = (trace(model, tokens, dtype=d) for d in (torch.float32, torch.float64))
    assert_as_accurate_as_torch(model(tokens), single.logits, double.logits, "logits")
    assert_gradients_are_equal(model, model(tokens, targets), tokens, targets)


@pytest.mark.parametrize("config", ENCODERS.values(), ids=ENCODERS.keys())
def test_an_encoders_layers_loss_and_gradients_are_those_of_the_fused_one(config):
    model, tokens = small_encoder(config), some_tokens()
    single, double = (trace(model, tokens, dtype=d) for d in (torch.float32, torch.float64))
    assert_as_accurate_as_torch(model(tokens), single.final, double.final, "last layer")
    if config.task is None:
        packed, _ = model.pack(tokens)
        vectors = model.pool(model.hidden(packed), packed)
        assert_as_accurate_as_torch(vectors, single.pooled, double.pooled, "vectors")
        assert single.logits is None
        return
    assert_as_accurate_as_torch(model.classify(tokens), single.logits, double.logits, "logits")
    shape = tokens.shape if config.task == "token" else tokens.shape[:1]
    targets = torch.randint(3, shape, generator=torch.Generator().manual_seed(4))
    assert_gradients_are_equal(model, model.classify(tokens, targets=targets), tokens, targets)


@pytest.mark.parametrize("config", READERS.values(), ids=READERS.keys())
def test_a_readers_logits_loss_and_gradients_are_those_of_the_fused_one(config):
    model, tokens = small_encoder(config), some_tokens()
    types = (torch.arange(17) > 5).long()
    beside = {"types": types.tolist()}
    single, double = (
        trace(model, tokens, dtype=d, **beside) for d in (torch.float32, torch.float64)
    )
    fused = model.classify(tokens, types=types.expand_as(tokens)).mT
    assert_as_accurate_as_torch(fused, single.logits, double.logits, "logits")
    assert single.pooled is None
    assert not torch.allclose(trace(model, tokens).logits, single.logits, atol=0.1)
    targets = torch.tensor([[3, 9], [0, 0], [16, 16]])
    loss = model.classify(tokens, types=types.expand_as(tokens), targets=targets)
    assert_gradients_are_equal(model, loss, tokens, targets, **beside)


def test_types_that_do_not_fit_are_named():
    model = small_encoder(READERS["bert, answers"])
    for types, words in (
        ([0, 1], r"types has shape \[2\], expected \[1, 3\] as tokens"),
        ([0, 1, 2], "types holds 0 to 2, expected 0 to 1"),
    ):
        with pytest.raises(ValueError, match=words):
            trace(model, [4, 5, 6], types=types)
    with pytest.raises(ValueError, match="types is given, and this model has none"):
        trace(small_model("gpt2"), [4, 5, 6], types=[0, 0, 0])


@pytest.mark.parametrize("name", DECODER_CLASSIFIERS)
def test_a_decoder_classifiers_logits_loss_and_gradients_are_those_of_the_fused_one(name):
    model, tokens = decoder_classifier(name), some_tokens()
    packed, shape = Packed.of(tokens.tolist()), tokens.shape
    single, double = (trace(model, tokens, dtype=d) for d in (torch.float32, torch.float64))
    fused = model.classify_packed(packed)
    if model.config.task == "token":
        fused = fused.view(*shape, -1)
        assert single.pooled is None
    else:
        shape = shape[:1]
        assert_as_accurate_as_torch(model.features(packed), single.pooled, double.pooled, "pooled")
    assert_as_accurate_as_torch(fused, single.logits, double.logits, "logits")
    targets = torch.randint(3, shape, generator=torch.Generator().manual_seed(4))
    loss = model.classify_packed(packed, targets.flatten())
    assert_gradients_are_equal(model, loss, tokens, targets)


def test_a_text_of_which_only_the_n_grams_read_all_is_refused():
    model = small_encoder(ENCODERS["bert, sequence, mean and n-grams"])
    trace(model, some_tokens(1, 20))
    with pytest.raises(ValueError, match=r"tokens has 21 positions, .* max_tokens=20"):
        trace(model, some_tokens(1, 21))


TRANSLATORS = {
    "learned positions": {},
    "rotary positions": {"position": "rope", "rope_base": 500.0},
    "LayerNorm, GELU, biases": {"norm": "layer_norm", "activation": "gelu", "bias": True},
    "examples that it copies from": {"examples": 2},
    "examples, rotary": {"examples": 2, "position": "rope"},
    "three layers and one": {"layers": 3, "decoder_layers": 1, "ffn_width": 40},
}


def translator(name: str, **fields) -> EncoderDecoder:
    model = small_encoder_decoder(**{**TRANSLATORS[name], **fields})
    if model.copying is not None:
        with torch.no_grad():
            model.copying.gate_follow_weight.copy_(torch.tensor([-1.0, 0.5, 1.0, 1.5]))
    return model


def pair_of(model: EncoderDecoder) -> tuple[list[list[int]], list[int]]:
    """A source with its examples, of which one is missing, and a target that has parts of both."""
    source = [[7, 3, 9, 12, 5, 30, 3, 9]]
    return source + [[4, 3, 9, 12, 8], []][: model.config.examples], [4, 3, 9, 12, 20, 6]


@pytest.mark.parametrize("name", TRANSLATORS)
def test_an_encoder_decoders_logits_loss_and_gradients_are_those_of_the_fused_one(name):
    model = translator(name)
    source, target = pair_of(model)
    batch = PairBatch.of([(source, target)], model)
    tokens = [0, *target]
    single, double = (
        trace(model, tokens, source=source, dtype=d) for d in (torch.float32, torch.float64)
    )
    fused = model(batch.source, batch.target)[None]
    assert_as_accurate_as_torch(fused, single.logits, double.logits, "logits")
    assert_as_accurate_as_torch(
        model.encode(batch.source), single.source.final, double.source.final, "memory"
    )
    assert (single.copying is None) == (model.config.examples == 0)
    loss = model(batch.source, batch.target, batch.targets)
    assert_gradients_are_equal(model, loss, tokens, batch.targets[None], source=source)


def test_the_maps_of_an_encoder_decoder_are_of_target_source_and_both():
    model = translator("three layers and one")
    source, target = pair_of(model)
    tokens = [0, *target]
    own, cross, read = (
        attention_maps(model, tokens, source=source, of=of) for of in ("self", "cross", "source")
    )
    assert own.shape == (1, 4, 7, 7) and not own.triu(1).any()
    assert cross.shape == (1, 4, 7, 9) and read.shape == (3, 4, 9, 9)
    assert read.min() > 0 and cross.min() > 0
    found = trace(model, tokens, source=source)
    layer = found.layers[0]
    assert torch.equal(cross, layer.cross.weights)
    torch.testing.assert_close(layer.crossed, layer.middle + layer.cross.out)
    torch.testing.assert_close(layer.output, layer.crossed + layer.ffn.out)
    # The source's tokens are looked at, and mixed, as the fused module does.
    batch = PairBatch.of([(source, target)], model)
    mixed = model.decoder[0].cross(
        layer.cross_in, found.source.final, batch.target.starts, batch.source.starts
    )
    torch.testing.assert_close(mixed, layer.cross.out, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="of is 'all', expected one of self, cross, source"):
        attention_maps(model, tokens, source=source, of="all")
    for of in ("cross", "source"):
        with pytest.raises(ValueError, match=f"of is '{of}', and the model reads no source"):
            attention_maps(small_model("gpt2"), [1, 2], of=of)


def test_rows_in_place_of_the_sources_are_what_is_computed_with():
    model = translator("learned positions")
    source, target = pair_of(model)
    other = [[8, 2, 1, 30, 31, 32, 33, 34]]
    rows = model.embedding.weight[torch.tensor([[*other[0], 0]])].detach()
    found = trace(model, [0, *target], source=source, source_rows=rows).logits
    torch.testing.assert_close(found, trace(model, [0, *target], source=other).logits)
    with pytest.raises(
        ValueError, match=r"source_rows has shape \[1, 8, 32\], expected \[1, 9, 32\]"
    ):
        trace(model, [0], source=source, source_rows=rows[:, :-1])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "source is not given"),
        ([5, 6], r"source is \[5, 6\], expected lists of tokens"),
        ([[37]], "source holds 37 to 37, expected 0 to 36"),
        ([[1] * 24], "source has 24 tokens and an end, the context is 24"),
        ([[1], [2]], "1 examples, expected at most 0"),
    ],
)
def test_sources_that_do_not_fit_are_named(source, words):
    with pytest.raises(ValueError, match=words):
        trace(translator("learned positions"), [0, 4], source=source)
    with pytest.raises(ValueError, match="source is given, and the model reads none"):
        trace(small_model("gpt2"), [1], source=[[1]])


def test_what_is_recorded_hangs_together():
    model, tokens = small_model("qwen"), some_tokens(1)
    found = trace(model, tokens, dtype=torch.float64)
    assert torch.equal(found.layers[0].input, found.embeddings)
    assert torch.equal(found.layers[1].input, found.layers[0].output)
    for layer in found.layers:
        attention = layer.attention
        torch.testing.assert_close(layer.middle, layer.input + attention.out)
        torch.testing.assert_close(layer.output, layer.middle + layer.ffn.out)
        values = attention.value.repeat_interleave(2, 1)
        torch.testing.assert_close(attention.mixed, attention.weights @ values)
        torch.testing.assert_close(
            layer.ffn.hidden, torch.nn.functional.silu(layer.ffn.gate) * layer.ffn.up
        )


def test_rows_in_place_of_tokens_are_what_is_computed_with():
    model, tokens = small_model("gpt2"), some_tokens(2)
    other = some_tokens(4)[2:]
    rows = model.embedding.weight[other].detach()
    torch.testing.assert_close(
        trace(model, tokens, token_rows=rows).logits, trace(model, other).logits
    )
    with pytest.raises(
        ValueError, match=r"token_rows has shape \[2, 17, 5\], expected \[2, 17, 32\]"
    ):
        trace(model, tokens, token_rows=rows[..., :5])


def test_attention_maps_are_what_the_fused_attention_weighs_by():
    config = replace(CONFIGS["gpt2"], layers=1)
    model, tokens = small_model(config), some_tokens(2)
    maps = attention_maps(model, tokens)
    assert maps.shape == (2, 1, 4, 17, 17)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 1, 4, 17))
    assert not maps.triu(1).any()
    x = model.blocks[0].attention_norm(model.embedding(tokens))
    _, _, value = model.blocks[0].attention.qkv(x).view(2, 17, 12, 8).split(4, dim=2)
    mixed = (maps[:, 0] @ value.transpose(1, 2)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(
        model.blocks[0].attention.out(mixed), model.blocks[0].attention(x), atol=1e-5, rtol=1e-4
    )


def test_a_window_hides_what_is_further_back_and_one_text_has_no_batch():
    model = small_model("qwen")  # a window of 5 in layer 1
    maps = attention_maps(model, some_tokens(1)[0].tolist())
    assert maps.shape == (2, 4, 17, 17)
    assert not maps[1].tril(-5).any() and maps[0].tril(-5).any()
    assert attention_maps(small_encoder(ENCODERS["bert, None"]), [5, 6, 7]).min() > 0


def test_adapters_are_part_of_what_is_traced():
    model, tokens = small_model("llama"), some_tokens()
    add_lora(model, rank=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".b." in name:
                parameter.normal_(std=0.1)
    found = trace(model, tokens).logits
    torch.testing.assert_close(found, model(tokens), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="adapters; merge_lora"):
        trainable(model)
    torch.testing.assert_close(trace(merge_lora(model), tokens).logits, found)


def test_the_model_is_left_as_it_was():
    model, tokens = small_model("llama").train(), some_tokens()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trace(model, tokens)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([], "tokens is empty"),
        ([[[1]]], r"tokens has shape \[1, 1, 1\]"),
        ([61], "tokens holds 61 to 61, expected 0 to 60"),
        ([-1, 3], "tokens holds -1 to 3"),
        ([1.5], "dtype torch.float32"),
        ([1] * 25, "25 positions, the context is 24"),
    ],
)
def test_tokens_that_do_not_fit_are_named(tokens, words):
    for model in (small_model("gpt2"), small_encoder(ENCODERS["bert, None"])):
        with pytest.raises(ValueError, match=words):
            trace(model, tokens)


def test_another_kind_of_model_is_refused():
    with pytest.raises(
        ValueError, match="model is a Linear, expected a Decoder, DecoderClassifier"
    ):
        trace(torch.nn.Linear(2, 2), [1])
    assert isinstance(small_model("gpt2"), Decoder)
