"""Beam search against searches of everything and of one's own, and that no source depends on others."""

from __future__ import annotations

import itertools

import pytest
import torch

from fusedlm.data import TranslationMemory, train_bpe
from fusedlm.generate import beam_search, target_state, translate
from fusedlm.generate.consensus import most_agreed, weights_of
from fusedlm.train.pair_batches import PairBatch
from tests.support.pairs import random_pairs, small_encoder_decoder

SOURCES = [source for (source,), _ in random_pairs(9)]


def log_probability(model, source, target) -> float:
    """Of the target and its end, computed without a cache."""
    batch = PairBatch.of([([source], target)], model)
    with torch.no_grad():
        logits = model(batch.source, batch.target).double().log_softmax(-1)
    return float(logits.gather(1, batch.targets[:, None]).sum())


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 1.7])
@pytest.mark.parametrize("position", ["learned", "rope"])
def test_a_beam_as_wide_as_all_targets_finds_the_best_of_them(length_penalty, position):
    V, longest = 4, 4
    model = small_encoder_decoder(vocab_size=V, position=position, spread=3.0)
    targets = [
        list(tokens)
        for length in range(longest)
        for tokens in itertools.product(range(1, V), repeat=length)
    ]
    for source in ([1, 2, 3], [3, 1], [2, 2, 2, 1, 3]):
        scored = [
            (log_probability(model, source, t) / (len(t) + 1) ** length_penalty, t) for t in targets
        ]
        scored.sort(reverse=True)
        (found,) = beam_search(
            model, [source], beam=len(targets), length_penalty=length_penalty, max_length=longest
        )
        assert [h.tokens for h in found] == [tokens for _, tokens in scored]
        assert [h.score for h in found] == pytest.approx([s for s, _ in scored], abs=1e-4)


def plain_beam_search(model, source, beam, length_penalty, limit):
    """By the definition: every hypothesis is a list, and its probability is computed anew."""
    end, live, finished = model.config.end_id, [(0.0, [])], []
    for step in range(1, limit + 1):
        ways = []
        for score, tokens in live:
            batch = PairBatch.of([([source], tokens)], model)
            with torch.no_grad():
                logits = model(batch.source, batch.target)[-1].log_softmax(-1).tolist()
            for token, value in enumerate(logits):
                if step < limit or token == end:
                    ways.append((score + value, tokens, token))
        ways = sorted(ways, key=lambda way: -way[0])[: 2 * beam]
        finished += [
            (score / step**length_penalty, tokens)
            for score, tokens, token in ways[:beam]
            if token == end
        ]
        live = [(score, [*tokens, token]) for score, tokens, token in ways if token != end][:beam]
        if len(finished) >= beam or not live:
            break
    return sorted(finished, key=lambda way: -way[0])[:beam]


@pytest.mark.parametrize("beam", [1, 2, 4])
def test_it_is_the_search_that_its_documentation_defines(beam):
    model = small_encoder_decoder(spread=3.0)
    found = beam_search(model, SOURCES, beam=beam, length_penalty=0.8, max_length=9)
    for source, hypotheses in zip(SOURCES, found, strict=True):
        expected = plain_beam_search(model, source, beam, 0.8, 9)
        assert [h.tokens for h in hypotheses] == [tokens for _, tokens in expected]
        assert [h.score for h in hypotheses] == pytest.approx([s for s, _ in expected], abs=1e-4)


@pytest.mark.parametrize("beam", [1, 3, 4, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("position", ["learned", "rope"])
def test_a_source_gets_the_same_bits_alone_and_beside_others(beam, dtype, position):
    model = small_encoder_decoder(position=position, spread=3.0)
    model.compute_dtype = dtype
    together = beam_search(model, SOURCES, beam=beam)
    assert together == [beam_search(model, [source], beam=beam)[0] for source in SOURCES]
    assert together[::-1] == beam_search(model, SOURCES[::-1], beam=beam)


def test_the_number_of_threads_and_of_pages_changes_nothing(monkeypatch):
    model = small_encoder_decoder(spread=3.0)
    expected = beam_search(model, SOURCES, beam=3)
    monkeypatch.setattr(target_state, "_PAGES", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        assert beam_search(model, SOURCES, beam=3) == expected
    finally:
        torch.set_num_threads(before)


def test_targets_end_at_the_longest_length_and_within_the_context():
    model = small_encoder_decoder(spread=0.1)  # all tokens are about as likely: no early end
    for hypotheses in beam_search(model, SOURCES, beam=2, max_length=5):
        assert all(len(h.tokens) <= 4 for h in hypotheses)
    for hypotheses in beam_search(model, SOURCES, beam=1):
        assert len(hypotheses[0].tokens) < model.config.context


def test_the_model_stays_in_the_mode_that_it_was_in():
    model = small_encoder_decoder(dropout=0.5).train()
    assert beam_search(model, SOURCES) == beam_search(model, SOURCES) and model.training
    assert beam_search(model, []) == []


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ([[1], []], {}, "source 1 is empty"),
        ([[1] * 24], {}, "source 0 has 24 tokens, the model's context is 23"),
        ([[37]], {}, "source 0 holds token 37, expected ids from 0 to 36"),
        ([[1]], {"beam": 0}, "beam is 0, expected at least 1"),
        ([1, 2], {}, "sources is flat, expected a list of lists"),
        ([[1], [2]], {"examples": [[]]}, "examples has 1 rows, expected 2 as sources"),
        ([[1]], {"length_penalty": -1.0}, "length_penalty is -1.0"),
        ([[1]], {"max_length": 0}, "max_length is 0"),
    ],
)
def test_what_does_not_fit_is_named(sources, options, message):
    with pytest.raises(ValueError, match=message):
        beam_search(small_encoder_decoder(), sources, **options)


def test_texts_that_are_empty_or_too_long_keep_their_places():
    tokenizer = train_bpe("a stitch in time saves nine " * 10, 270)
    model = small_encoder_decoder(vocab_size=tokenizer.vocab_size)
    done = []
    texts = ["a stitch", "", "nine " * 40, "in time"]
    found = translate(model, tokenizer, texts, beam=2, progress=done.append)
    assert found[1] == "" and found[2] is None and sum(done) == 4
    assert found[0] == translate(model, tokenizer, ["a stitch"], beam=2)[0]


def test_a_consensus_is_of_hypotheses_and_memory_and_without_it_the_likeliest_is_taken():
    tokenizer = train_bpe("a stitch in time saves nine " * 10, 270)
    model = small_encoder_decoder(vocab_size=tokenizer.vocab_size, spread=3.0)
    (row,) = tokenizer.encode_batch(["in time"])
    (hypotheses,) = beam_search(model, [row], beam=4, length_penalty=0.5)
    made = [tokenizer.decode(h.tokens) for h in hypotheses]
    options = {"beam": 4, "length_penalty": 0.5}
    (likeliest,) = translate(model, tokenizer, ["in time"], consensus=False, **options)
    assert likeliest == made[0]
    weights = weights_of([h.score * (len(h.tokens) + 1) ** 0.5 for h in hypotheses], 0.5)
    (agreed,) = translate(model, tokenizer, ["in time"], **options)
    assert agreed == made[most_agreed(made, weights)]
    memory = TranslationMemory([("in time", made[-1]), ("other", "nothing like it")])
    (found,) = translate(model, tokenizer, ["in time"], memory=memory, **options)
    assert found == [*made, made[-1]][most_agreed([*made, made[-1]], [*weights, 0.4 / 0.6])]


def test_examples_are_read_and_change_no_other_source():
    model = small_encoder_decoder(examples=2, spread=3.0)
    pairs = random_pairs(6, examples=2, longest=7)
    sources, examples = [s[0] for s, _ in pairs], [list(s[1:]) for s, _ in pairs]
    found = beam_search(model, sources, examples=examples, beam=2)
    assert found != beam_search(model, sources, beam=2)
    for source, given, hypotheses in zip(sources, examples, found, strict=True):
        assert beam_search(model, [source], examples=[given], beam=2) == [hypotheses]
        batch = PairBatch.of([([source, *given], hypotheses[0].tokens)], model)
        with torch.no_grad():
            logits = model(batch.source, batch.target).double().log_softmax(-1)
        total = float(logits.gather(1, batch.targets[:, None]).sum())
        assert hypotheses[0].score == pytest.approx(total / len(batch.targets), abs=1e-4)
    with pytest.raises(ValueError, match="source 0 has 3 examples, the model reads 2"):
        beam_search(model, [[1]], examples=[[[2], [3], [4]]])
    with pytest.raises(ValueError, match="an example of source 0 has 24 tokens"):
        beam_search(model, [[1]], examples=[[[2] * 24]])
