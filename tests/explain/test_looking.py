"""Logit lens and integrated gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fusedlm.explain import integrated_gradients, logit_lens, trace
from fusedlm.explain.tracing import token_table
from fusedlm.models import Decoder, DecoderClassifier, Encoder, EncoderDecoder, ModelConfig
from fusedlm.models.packed import Packed
from fusedlm.train.pair_batches import PairBatch
from tests.explain.test_trace import (
    DECODER_CLASSIFIERS,
    ENCODERS,
    READERS,
    TRANSLATORS,
    decoder_classifier,
    pair_of,
    small_encoder,
    some_tokens,
    translator,
)
from tests.support.small import CONFIGS, small_model

TOKENS = some_tokens(1, 9)[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_row_of_the_lens_is_what_the_model_cut_there_says(name):
    model = small_model(name)
    lens = logit_lens(model, TOKENS, top=4)
    assert lens.tokens.shape == lens.probabilities.shape == (3, 9, 4)
    windows = model.config.windows
    for layers in (1, 2):
        cut = Decoder(replace(model.config, layers=layers, windows=windows and windows[:layers]))
        cut.load_state_dict(model.state_dict(), strict=False)
        shares = cut.eval()(TOKENS[None])[0].softmax(-1)
        torch.testing.assert_close(
            lens.probabilities[layers], shares.topk(4).values, atol=1e-5, rtol=1e-4
        )
        assert torch.equal(lens.tokens[layers, :, 0], shares.argmax(-1))
    said = lens.tokens[-1, :, 0]
    assert torch.equal(lens.rank[-1], torch.ones(9, dtype=torch.int64))
    for row in range(3):
        first = lens.tokens[row, :, 0] == said
        assert torch.equal(lens.rank[row] == 1, first)
        torch.testing.assert_close(lens.last[row][first], lens.probabilities[row, :, 0][first])


def cut_after(model, layers: int):
    """The same model with the first `layers` layers alone."""
    config = model.config
    if isinstance(model, DecoderClassifier):
        windows = config.decoder.windows
        shorter = replace(config.decoder, layers=layers, windows=windows and windows[:layers])
        cut = DecoderClassifier(replace(config, decoder=shorter))
    else:
        cut = Encoder(replace(config, layers=layers))
    cut.load_state_dict(model.state_dict(), strict=False)
    return cut.eval()


def classifiers() -> dict:
    return {
        **{name: small_encoder(config) for name, config in ENCODERS.items() if config.task},
        **{name: decoder_classifier(name) for name in DECODER_CLASSIFIERS},
        **{name: small_encoder(config) for name, config in READERS.items()},
    }


@pytest.mark.parametrize("name", classifiers())
def test_a_row_of_a_classifiers_lens_is_what_it_says_cut_there(name):
    model = classifiers()[name]
    lens = logit_lens(model, TOKENS, top=3)
    span = model.config.task == "span"
    rows = {"sequence": 1, "token": 9, "span": 2}[model.config.task]
    assert lens.tokens.shape == lens.probabilities.shape == (3, rows, 3)
    for layers in (1, 2):
        packed = Packed.of([TOKENS.tolist()], model.config.first_position)
        with torch.no_grad():
            logits = cut_after(model, layers).classify_packed(packed)
        shares = (logits.mT if span else logits).softmax(-1)
        best = shares.topk(3)
        torch.testing.assert_close(lens.probabilities[layers], best.values, atol=1e-5, rtol=1e-4)
        assert torch.equal(lens.tokens[layers], best.indices)
    assert torch.equal(lens.rank[-1], torch.ones(rows, dtype=torch.int64))
    assert torch.equal(lens.last[-1], lens.probabilities[-1, :, 0])


def test_the_lens_refuses_what_it_cannot_look_through():
    with pytest.raises(ValueError, match="the encoder has no classifier, and so nothing to say"):
        logit_lens(small_encoder(ENCODERS["bert, None"]), [1, 2])
    with pytest.raises(ValueError, match="top is 62, expected an integer from 1 to 61"):
        logit_lens(small_model("gpt2"), [1, 2], top=62)
    with pytest.raises(ValueError, match="top is 4, expected an integer from 1 to 3"):
        logit_lens(small_encoder(ENCODERS["bert, sequence"]), [1, 2], top=4)
    with pytest.raises(ValueError, match=r"tokens has shape \[1, 2\]"):
        logit_lens(small_model("gpt2"), [[1, 2]])


def by_hand(model, tokens, target, start, points=4000):
    """The paper's formula as a plain sum over the middle of equal steps, [T]."""
    weights = {n: p.detach().double() for n, p in model.named_parameters()}
    rows = weights[token_table(model)][tokens]
    total = torch.zeros_like(rows)
    for alphas in ((torch.arange(points) + 0.5) / points).double().split(500):
        way = (start + alphas[:, None, None] * (rows - start)).requires_grad_()
        ids = tokens.expand(len(alphas), -1)
        logits = trace(model, ids, token_rows=way, weights=weights).logits
        last = logits[:, -1] if logits.dim() == 3 else logits
        (gradient,) = torch.autograd.grad(last.log_softmax(-1)[:, target].sum(), way)
        total += gradient.sum(0) / points
    return ((rows - start) * total).sum(-1)


PAPER = ["gpt2", "llama", "bert, sequence", "distilbert, token", "llama, the mean"]


@pytest.mark.parametrize("name", PAPER)
def test_integrated_gradients_are_the_papers_sum(name):
    if name in CONFIGS:
        model = small_model(name, spread=2.0)
    elif name in DECODER_CLASSIFIERS:
        model = decoder_classifier(name)
    else:
        model = small_encoder(ENCODERS[name])
    table = model.state_dict()[token_table(model)]
    found = integrated_gradients(model, TOKENS, target=2, baseline=7)
    expected = by_hand(model, TOKENS, 2, table[7].detach().double())
    scale = expected.abs().max().item()
    torch.testing.assert_close(found.scores, expected, atol=0.01 * scale, rtol=0.01)
    torch.testing.assert_close(found.numbers.sum(-1), found.scores)


@pytest.mark.parametrize("baseline", ["mean", "zero", 5])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_scores_sum_to_what_the_text_changes(name, baseline):
    model = small_model(name)
    found = integrated_gradients(model, TOKENS, baseline=baseline, steps=2048)
    shares = model(TOKENS[None])[0, -1].log_softmax(-1)
    assert found.target == int(shares.argmax())  # the likeliest, where none is given
    assert found.after == pytest.approx(shares.max().item(), abs=1e-4)
    assert found.relative_gap < 0.02 and found.steps <= 2048
    assert found.gap == pytest.approx(found.scores.sum().item() - (found.after - found.before))


def test_an_answers_scores_sum_to_what_the_text_changes_of_first_and_last():
    model = small_encoder(READERS["bert, answers"])
    types = [0, 0, 0, 0, 1, 1, 1, 1, 1]
    first, last = (
        model.classify(TOKENS[None], types=torch.tensor([types]))[0]
        .log_softmax(0)
        .detach()
        .unbind(1)
    )
    found = integrated_gradients(model, TOKENS, types=types, target=(5, 7), steps=2048)
    assert found.target == (5, 7) and found.position is None
    assert found.after == pytest.approx((first[5] + last[7]).item(), abs=1e-4)
    assert found.relative_gap < 0.02
    both = {(i, j): (first[i] + last[j]).item() for i in range(9) for j in range(i, 9)}
    guess = integrated_gradients(model, TOKENS, types=types)
    assert guess.target == max(both, key=both.get)
    for target in (5, (5, 9), (5, 6, 7)):
        with pytest.raises(ValueError, match="expected two integers from 0 to 8"):
            integrated_gradients(model, TOKENS, target=target)
    with pytest.raises(ValueError, match="position is 3, expected None"):
        integrated_gradients(model, TOKENS, position=3)


@pytest.mark.parametrize("name", TRANSLATORS)
def test_a_row_of_a_translators_lens_is_what_it_says_cut_there(name):
    model = translator(name)
    source, target = pair_of(model)
    tokens = [0, *target]
    lens = logit_lens(model, tokens, source=source, top=4)
    batch = PairBatch.of([(source, target)], model)
    for layers in range(1, model.config.decoder_layers + 1):
        cut = EncoderDecoder(replace(model.config, decoder_layers=layers)).eval()
        cut.load_state_dict(model.state_dict(), strict=False)
        with torch.no_grad():
            best = cut(batch.source, batch.target).softmax(-1).topk(4)
        torch.testing.assert_close(lens.probabilities[layers], best.values, atol=1e-5, rtol=1e-3)
        assert torch.equal(lens.tokens[layers, :, 0], best.indices[:, 0])


@pytest.mark.parametrize("name", ["learned positions", "examples that it copies from"])
def test_a_translations_scores_are_the_papers_sum_over_the_source(name):
    model = translator(name)
    source, target = pair_of(model)
    tokens = [0, *target]
    found = integrated_gradients(
        model, tokens, source=source, target=20, position=4, baseline=7, steps=2048
    )
    weights = {n: p.detach().double() for n, p in model.named_parameters()}
    table = weights["embedding.weight"]
    rows = table[model.pack_sources([source]).tokens]
    total, points = torch.zeros_like(rows), 1000
    for alphas in ((torch.arange(points) + 0.5) / points).double().split(250):
        way = (table[7] + alphas[:, None, None] * (rows - table[7])).requires_grad_()
        ids = torch.tensor(tokens).expand(len(alphas), -1)
        logits = trace(model, ids, source=source, source_rows=way, weights=weights).logits
        (gradient,) = torch.autograd.grad(logits[:, 4].log_softmax(-1)[:, 20].sum(), way)
        total += gradient.sum(0) / points
    expected = ((rows - table[7]) * total).sum(-1)
    scale = expected.abs().max().item()
    assert scale > 0.01
    torch.testing.assert_close(found.scores, expected, atol=0.01 * scale, rtol=0.01)
    batch = PairBatch.of([(source, target)], model)
    shares = model(batch.source, batch.target)[4].log_softmax(-1)
    assert found.after == pytest.approx(shares[20].item(), abs=1e-4)


def test_what_n_grams_say_is_their_tokens():
    model = small_encoder(ENCODERS["bert, sequence, mean and n-grams"])
    found = integrated_gradients(model, TOKENS, target=1)
    torch.testing.assert_close(found.scores, found.numbers.sum(-1) + found.ngrams)
    assert found.relative_gap < 0.02 and found.ngrams.abs().min() > 0
    assert found.after == pytest.approx(
        model.classify(TOKENS[None])[0].log_softmax(-1)[1].item(), abs=1e-4
    )
    pair = model.ngrams.buckets(model.pack(TOKENS[None])[0])[4, 1]  # tokens 3 and 4 as a pair
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.ngrams.weight.zero_()[pair, 1] = 1.0
    found = integrated_gradients(model, TOKENS, target=1)
    assert found.numbers.abs().max() == 0
    assert found.scores[3] == pytest.approx(found.scores[4].item(), rel=1e-9)
    assert found.scores[3] > 0.1


def test_tokens_that_are_not_seen_get_nothing():
    model = small_model(
        ModelConfig.llama(vocab_size=61, context=24, layers=1, width=32, heads=4, windows=[2])
    )
    found = integrated_gradients(model, TOKENS, target=3, position=5)
    assert found.scores[[0, 1, 2, 3, 6, 7, 8]].abs().max() == 0
    assert found.scores[[4, 5]].abs().min() > 0


def test_too_few_steps_show_in_the_gap():
    model = small_model("llama", spread=12.0)  # near zeros its norms are steep
    few, many = (integrated_gradients(model, TOKENS, steps=n, baseline="zero") for n in (32, 512))
    assert few.steps == 32 and few.relative_gap > 0.2
    assert few.steps < many.steps < 512 and many.relative_gap < 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": 61}, "target is 61, expected an integer from 0 to 60"),
        ({"position": 9}, "position is 9, expected an integer from 0 to 8"),
        ({"steps": 31}, "steps is 31, expected an integer of at least 32"),
        ({"baseline": "nothing"}, "baseline is 'nothing'"),
        ({"baseline": 61}, "baseline is 61"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        integrated_gradients(small_model("gpt2"), TOKENS, **options)


def test_an_encoder_needs_a_classifier():
    with pytest.raises(ValueError, match="the encoder has no classifier"):
        integrated_gradients(small_encoder(ENCODERS["bert, None"]), TOKENS)
    with pytest.raises(ValueError, match="position is 2, expected None"):
        integrated_gradients(small_encoder(ENCODERS["bert, sequence"]), TOKENS, position=2)
