"""Training to translate: batches, exact resume, evaluation, scores."""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fusedlm.data import TranslationMemory, train_bpe
from fusedlm.generate import translate
from fusedlm.models import EncoderDecoder, EncoderDecoderConfig, load
from fusedlm.train import TrainConfig, Translation, fit, read_metrics
from fusedlm.train.pair_batches import PairBatches, all_pairs, size
from fusedlm.train.translation_scores import placeholders, placeholders_kept
from tests.support.pairs import random_pairs, small_encoder_decoder

NUMBERS = "one two three four five six seven eight nine ten".split()
ZAHLEN = "eins zwei drei vier fünf sechs sieben acht neun zehn".split()
PAIRS = [
    (f"{a} and {b}", f"{x} und {y}")
    for a, x in zip(NUMBERS, ZAHLEN, strict=True)
    for b, y in zip(NUMBERS, ZAHLEN, strict=True)
]
TRAIN, VALIDATION = [p for i, p in enumerate(PAIRS) if i % 7], PAIRS[::7]
TOKENIZER = train_bpe((side for pair in TRAIN for side in pair), 300)
CONFIG = TrainConfig(steps=8, batch=200, lr=3e-3, warmup=2, eval_every=2, save_every=2)


def task(config: TrainConfig = CONFIG, *, train=TRAIN, smoothing: float = 0.1, **options):
    torch.manual_seed(3)
    shape = {"context": 48, "layers": 1, "width": 32, "heads": 2, "dropout": 0.1, "examples": 1}
    shape |= options.pop("shape", {})
    model = EncoderDecoder(EncoderDecoderConfig(TOKENIZER.vocab_size, end_id=0, **shape))
    return Translation(
        model, TOKENIZER, train, VALIDATION, config, label_smoothing=smoothing, **options
    )


def state(folder):
    tensors = {
        f"{name} {key}": value.tolist()
        for name in ("model", "optimizer")
        for key, value in load_file(folder / f"{name}.safetensors").items()
    }
    return tensors, json.loads((folder / "state.json").read_text())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, precision):
    config = replace(CONFIG, precision=precision, accumulate=2)
    whole = tmp_path / "whole"
    fit(task(config), config, whole, progress=False)

    class Dies(Exception):
        pass

    broken, dying = task(config), tmp_path / "broken"
    plain, calls = broken.loss, []

    def loss(batch):
        calls.append(1)
        if len(calls) > 2 * 5:
            raise Dies
        return plain(batch)

    broken.loss = loss
    with pytest.raises(Dies):
        fit(broken, config, dying, progress=False)
    torch.manual_seed(99)
    fit(task(config), config, dying, resume=True, progress=False)
    assert state(whole / "last") == state(dying / "last")
    times = lambda m: {k: v for k, v in m.items() if k != "tokens_per_second"}  # noqa: E731
    ours, theirs = (read_metrics(at / "metrics.jsonl") for at in (whole, dying))
    assert [*map(times, ours)] == [*map(times, theirs)]


@pytest.mark.parametrize("changed", [{"smoothing": 0.2}, {"train": TRAIN[1:]}])
def test_a_run_does_not_go_on_with_other_data_or_another_smoothing(tmp_path, changed):
    fit(task(), CONFIG, tmp_path / "r", progress=False)
    with pytest.raises(ValueError, match="trained on other data"):
        fit(task(**changed), CONFIG, tmp_path / "r", resume=True, progress=False)


def test_it_learns_to_translate_what_it_has_not_seen(tmp_path):
    config = replace(CONFIG, steps=300, lr=5e-3, batch=600, eval_every=100, save_every=300)
    run = fit(
        task(config, shape={"dropout": 0.0, "width": 64, "examples": 0}), config, tmp_path / "r",
        progress=False,
    )  # fmt: skip
    model, tokenizer = load(run.best_checkpoint)
    found = translate(model, tokenizer, [source for source, _ in VALIDATION], beam=2)
    right = sum(new == target for new, (_, target) in zip(found, VALIDATION, strict=True))
    assert right >= 0.8 * len(VALIDATION)


def test_an_epoch_has_every_pair_once_in_batches_of_bounded_size():
    model = small_encoder_decoder(examples=1)
    rows = random_pairs(40, examples=1, longest=9)
    batches = PairBatches(rows, model, 90, seed=5)
    targets: Counter = Counter()
    while batches.drawn < 40:
        batch = batches.next()
        assert batch.tokens <= 90
        ends = batch.target.starts.tolist()
        targets.update(
            tuple(batch.target.tokens[a + 1 : b].tolist()) for a, b in itertools.pairwise(ends)
        )
    expected = Counter(tuple(target) for _, target in rows)
    assert not expected - targets and batches.epoch_tokens == sum(map(size, rows))
    in_order = [len(b.targets) for b in all_pairs(rows, model, 90)]
    assert sum(in_order) == sum(len(target) + 1 for _, target in rows)


def test_batches_go_on_where_their_state_was_taken():
    model, rows = small_encoder_decoder(), random_pairs(20, longest=9)
    first, second = (PairBatches(rows, model, 90, seed=5) for _ in range(2))
    for _ in range(7):
        first.next()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.next().targets, second.next().targets)
    with pytest.raises(ValueError, match="the state has tokens 90, expected 80"):
        PairBatches(rows, model, 80, seed=5).load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="tokens is 5, expected at least"):
        PairBatches(rows, model, 5)


def test_a_share_of_the_sources_goes_without_its_examples():
    model = small_encoder_decoder(examples=1)
    rows = [([[1], [2, 3]], [4]) for _ in range(400)]
    batches = PairBatches(rows, model, 7 * 400, alone=0.25)
    lengths = batches.next().source.lengths[:400].tolist()
    assert set(lengths) == {3, 5} and 70 < lengths.count(3) < 130


def test_a_share_of_the_sources_has_its_own_target_noised_as_the_example():
    model = small_encoder_decoder(examples=1, context=16)
    rows = [([[1], [2]], list(range(5, 20))) for _ in range(300)]
    first, second = (PairBatches(rows, model, 19 * 300, seed=4, noised=0.5) for _ in range(2))
    batch = first.next()
    assert torch.equal(batch.source.tokens, second.next().source.tokens)
    lengths = batch.source.lengths
    changed = int((lengths != 4).sum())
    assert changed > 90 and int(lengths.max()) <= 2 + 16
    own = batch.source.tokens[(batch.source.types == 1) & (batch.source.tokens > 2)]
    assert set(own.tolist()) <= set(range(5, 20))


def test_what_is_noised_is_a_batch_of_its_own_if_it_needs_more_than_there_is():
    model = small_encoder_decoder(examples=1)
    rows = [([[1], []], [5, 6, 7, 8]) for _ in range(50)]
    batches = PairBatches(rows, model, size(rows[0]), noised=1.0)
    for _ in range(60):
        assert len(batches.next().target.starts) == 2
    assert batches.drawn == 60


def test_examples_are_of_other_pairs_and_fit_their_room():
    built = task()
    memory = TranslationMemory(TRAIN)
    for (source, target), (parts, tokens) in zip(TRAIN, built.batches.rows, strict=True):
        match = memory.look_up(source, others=True)[0]
        assert TOKENIZER.decode(parts[1]) == match.target and match.source != source
        assert TOKENIZER.decode(tokens) == target


def test_validation_loss_is_of_each_token_equally_and_without_smoothing():
    built = task()
    built.prepare(CONFIG)
    built.model.eval()
    batch = next(all_pairs(built._validation, built.model, 10**6))
    with torch.no_grad():
        logits = built.model(batch.source, batch.target)
    expected = torch.nn.functional.cross_entropy(logits, batch.targets)
    assert built.evaluate()["val_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_pairs_too_long_for_the_model_are_counted_and_none_left_is_an_error():
    long = ("seven " * 60, "sieben")
    assert task(train=[*TRAIN, long]).skipped.lines() == [
        f"1 left out: a side beyond 47 tokens (the first: train pair {len(TRAIN) + 1})"
    ]
    with pytest.raises(ValueError, match="train has 1 pairs, none of them within 48 tokens"):
        task(train=[long])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"objective": "bleu"}, "objective is 'bleu'"),
    ],
)
def test_settings_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        task(**options)


def test_a_missing_sacrebleu_shows_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(NotImplementedError, match="need sacrebleu"):
        task(objective="chrf")


def test_resuming_by_another_objective_is_refused(tmp_path):
    pytest.importorskip("sacrebleu")
    fit(task(), CONFIG, tmp_path, progress=False)
    longer = replace(CONFIG, steps=CONFIG.steps + 1)
    with pytest.raises(ValueError, match=r"chosen among val_loss, this run's by chrf"):
        fit(task(objective="chrf"), longer, tmp_path, progress=False, resume=True)


def test_chrf_decides_which_model_is_best_where_it_is_asked_to(tmp_path):
    pytest.importorskip("sacrebleu")
    run = fit(task(objective="chrf"), CONFIG, tmp_path / "r", progress=False)
    found = [m["chrf"] for m in read_metrics(run.metrics) if "chrf" in m]
    assert len(found) == 4 and run.best["chrf"] == max(found)


def test_scores_are_sacrebleus():
    sacrebleu = pytest.importorskip("sacrebleu")
    from fusedlm.train.translation_scores import scores

    sources, made = ["save %1", "b"], ["Datei %1 sichern", "ein Wort mehr"]
    references = ["Datei %1 speichern", "ein Wort"]
    found = scores(sources, made, references)
    assert found["bleu"] == sacrebleu.BLEU().corpus_score(made, [references]).score
    assert found["chrf"] == sacrebleu.CHRF().corpus_score(made, [references]).score
    assert found["exact"] == 0 and (found["placeholders_kept"], found["placeholders"]) == (1, 1)


def test_placeholders_are_counted_with_their_repetitions():
    text = "%1 of %1: $(ARG1), {name}, %PRODUCTNAME, %(count)d, %s and 50 % of <b>all</b>"
    assert placeholders(text).total() == 9 and placeholders(text)["%1"] == 2
    assert placeholders_kept([text, "no"], ["%1 von $(ARG1)", "nein %2"]) == (2, 9)


def test_differences_are_those_of_the_corpus_and_of_its_draws():
    pytest.importorskip("sacrebleu")
    from fusedlm.evaluation.intervals import bootstrap
    from fusedlm.train.translation_scores import bleu, chrf, differences

    draw = random.Random(0)
    words = "the cat saw a dog in town and went home with it".split()
    references = [" ".join(draw.choices(words, k=draw.randint(4, 12))) for _ in range(120)]

    def spoiled(share: float) -> list[str]:
        return [
            " ".join("x" if draw.random() < share else word for word in text.split())
            for text in references
        ]

    good, poor = spoiled(0.15), spoiled(0.25)
    found = differences(good, poor, references)
    for name, score in (("bleu", bleu), ("chrf", chrf)):
        whole = score(good, references) - score(poor, references)
        assert found[name]["difference"] == pytest.approx(whole)
        assert 0 < found[name]["low"] < whole < found[name]["high"] and found[name]["wins"] > 0.97
    other = differences(poor, good, references)["bleu"]
    assert other["difference"] == pytest.approx(-found["bleu"]["difference"])
    assert other["low"] == pytest.approx(-found["bleu"]["high"]) and other["wins"] < 0.03
    same = differences(good, good, references)["chrf"]
    assert same == {"difference": 0, "low": 0, "high": 0, "wins": 0}
    # The draws, text by text, through sacreBLEU's public functions.
    found = differences(good, poor, references, resamples=30, seed=5)
    for name, score in (("bleu", bleu), ("chrf", chrf)):

        def gain(rows, score=score):
            ours, theirs, truth = ([each[i] for i in rows] for each in (good, poor, references))
            return score(ours, truth) - score(theirs, truth)

        low, high = np.percentile(bootstrap(gain, 120, resamples=30, seed=5), (2.5, 97.5))
        assert (found[name]["low"], found[name]["high"]) == pytest.approx((low, high))
