"""Training classifiers: batches of like length, learning, resuming, freezing, and the linear probe."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fusedlm.data import Tagged, train_words
from fusedlm.errors import CorruptFileError
from fusedlm.models import (
    DecoderClassifier,
    DecoderClassifierConfig,
    Encoder,
    EncoderConfig,
    ModelConfig,
    load,
)
from fusedlm.models.tagging import Piece
from fusedlm.models.texts import encode_texts, over_batches
from fusedlm.train import (
    Classification,
    Sequences,
    TokenClassification,
    TrainConfig,
    fit,
    fit_probe,
    load_checkpoint,
    read_metrics,
)
from fusedlm.train import loop as loops
from fusedlm.train.classification import freeze
from fusedlm.train.length_batches import LengthBatches
from fusedlm.train.linear_probe import PENALTIES, _features
from fusedlm.train.token_classification import with_targets

WORDS = "the film was a story of a man and a woman in town with music".split()
GOOD, BAD = "good great fine".split(), "bad poor dull".split()
CONFIG = TrainConfig(steps=8, batch=8, lr=3e-3, warmup=2, eval_every=4, save_every=4)


def reviews(n: int, seed: int) -> tuple[list[str], list[int]]:
    """Texts of 4 to 20 words, one of which says which class it is."""
    draw = random.Random(seed)
    texts, targets = [], []
    for number in range(n):
        words = draw.choices(WORDS, k=draw.randint(3, 19))
        words.insert(draw.randrange(len(words)), draw.choice((BAD, GOOD)[number % 2]))
        texts.append(" ".join(words))
        targets.append(number % 2)
    return texts, targets


TOKENIZER = train_words([*WORDS, *GOOD, *BAD], 100)


def encoder(**changes) -> Encoder:
    torch.manual_seed(5)
    shape = {
        "context": 24, "layers": 2, "width": 16, "heads": 2, "ffn_width": 32, "types": 0,
        "dropout": 0.1, "task": "sequence", "labels": ["n", "y"], "head": "mean", "ngrams": 1,
        "ngram_buckets": 4096, "cut": "middle", **changes,
    }  # fmt: skip
    return Encoder(EncoderConfig(TOKENIZER.vocab_size, **shape))


def decoder() -> DecoderClassifier:
    torch.manual_seed(5)
    shape = {"layers": 2, "width": 16, "heads": 2, "context": 24, "dropout": 0.1}
    config = ModelConfig.llama(vocab_size=TOKENIZER.vocab_size, **shape)
    return DecoderClassifier(DecoderClassifierConfig(config, ["n", "y"], pooling="mean"))


def sequences(model, n: int, seed: int) -> Sequences:
    texts, targets = reviews(n, seed)
    return Sequences(encode_texts("test", model, TOKENIZER, texts), targets)


def task(model=None, config: TrainConfig = CONFIG, n: int = 60, **options) -> Classification:
    model = encoder() if model is None else model
    data = (sequences(model, n, 0), sequences(model, 40, 1))
    return Classification(model, TOKENIZER, *data, config, **options)


@pytest.mark.parametrize("make", [encoder, decoder])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_classifier_learns_which_words_decide(tmp_path, make, precision):
    config = replace(CONFIG, steps=120, batch=16, lr=1e-2, eval_every=40, precision=precision)
    result = fit(task(make(), config, 256), config, tmp_path, progress=False)
    assert result.best["val_accuracy"] > 0.9 and result.best["val_loss"] < 0.3
    model, words = load(result.best_checkpoint)
    held = sequences(model, 40, 1)
    logits = over_batches(model, held.rows, model.classify_packed, 2)
    right = (logits.argmax(1) == torch.tensor(held.targets)).float().mean().item()
    assert right == pytest.approx(result.best["val_accuracy"])
    assert words.encode("the film") == TOKENIZER.encode("the film")


@pytest.mark.parametrize("make", [encoder, decoder])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch, make):
    config = replace(CONFIG, accumulate=2)
    fit(task(make(), config), config, tmp_path / "whole", progress=False)
    plain = loops._step

    def dying(task, optimizer, config, step, last):
        if step == 6:
            raise RuntimeError("power cut")
        return plain(task, optimizer, config, step, last)

    with monkeypatch.context() as patch:
        patch.setattr(loops, "_step", dying)
        with pytest.raises(RuntimeError, match="power cut"):
            fit(task(make(), config), config, tmp_path / "cut", progress=False)
    torch.manual_seed(77)
    fit(task(make(), config), config, tmp_path / "cut", resume=True, progress=False)
    for name in ("last/model", "last/optimizer", "best/model"):
        whole, cut = (load_file(tmp_path / f / f"{name}.safetensors") for f in ("whole", "cut"))
        assert whole.keys() == cut.keys() and all(torch.equal(whole[k], cut[k]) for k in whole)
    with pytest.raises(ValueError, match="trained on other data"):
        fit(task(make(), config, 62), config, tmp_path / "cut", resume=True, progress=False)


def test_an_evaluation_that_says_so_ends_the_run_and_saves(tmp_path):
    seen = []
    tell = lambda found: seen.append(found["step"]) or len(seen) == 1  # noqa: E731
    result = fit(task(), CONFIG, tmp_path, progress=False, on_evaluation=tell)
    assert seen == [4] and result.step == 4 and result.interrupted
    assert json.loads((tmp_path / "last" / "state.json").read_text())["step"] == 4


def test_an_epoch_visits_every_text_once_in_batches_of_like_length():
    draw = random.Random(0)
    data = Sequences([[i] * draw.randint(1, 200) for i in range(1001)], list(range(1001)))
    batches = LengthBatches(data, 8, seed=3)
    assert batches.per_epoch == 126
    seen, spread = [], 0
    for _ in range(126):
        packed, targets = batches.next()
        assert [packed.tokens[s].item() for s in packed.starts[:-1]] == targets.tolist()
        seen += targets.tolist()
        spread += int(packed.lengths.max() - packed.lengths.min())
    assert sorted(seen) == list(range(1001)) and seen[:8] != sorted(seen[:8])
    assert spread / 126 < 20  # of 200, which batches by chance would come near
    second = [batches.next()[1].tolist() for _ in range(126)]
    visited = [target for batch in second for target in batch]
    assert sorted(visited) == list(range(1001)) and visited != seen
    again = LengthBatches(data, 8, seed=3)
    again.load_state_dict({**batches.state_dict(), "drawn": 126})
    assert again.next()[1].tolist() == second[0]
    again.skip()
    assert again.next()[1].tolist() == second[2]
    with pytest.raises(ValueError, match="the state has seed 3, expected 4"):
        LengthBatches(data, 8, seed=4).load_state_dict(batches.state_dict())


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    found = []
    for batch, accumulate in ((40, 1), (8, 5)):
        config = replace(CONFIG, steps=1, batch=batch, accumulate=accumulate, clip=None)
        one = task(encoder(dropout=0.0), config, 40)
        fit(one, config, tmp_path / str(batch), progress=False)
        found.append([p.grad for p in one.model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("make", [encoder, decoder])
def test_frozen_layers_stay_and_those_above_learn(tmp_path, make):
    model = make()
    freeze(model, 1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = replace(CONFIG, steps=3)
    fit(task(model, config), config, tmp_path, progress=False)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n, p in model.named_parameters() if p.requires_grad}
    assert any("blocks.1." in name for name in changed)
    assert not [n for n in changed if "blocks.0." in n or "token_weight" in n or "embedding" in n]
    with pytest.raises(ValueError, match="layers is 3, expected 0 to 2"):
        freeze(model, 3)


@pytest.mark.parametrize("make", [lambda: encoder(ngrams=0), decoder])
def test_the_probe_is_the_best_logistic_regression_on_the_features(make):
    model = make().eval()
    train, held = sequences(model, 200, 0), sequences(model, 50, 1)
    below = {n: p.detach().clone() for n, p in model.named_parameters() if "classifier" not in n}
    found = fit_probe(model, train, held)
    assert all(torch.equal(p, below[n]) for n, p in model.named_parameters() if n in below)
    logits = over_batches(model, held.rows, model.classify_packed, 2)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(held.targets)).item()
    assert loss == pytest.approx(found["val_loss"], rel=1e-3)
    # At the minimum the gradient of loss and penalty is zero, by torch's own formulas in float64.
    x = _features(model, train.rows, None).double()
    spread = x.std(0)
    weight = (model.classifier.weight.detach().double() * spread).requires_grad_()
    bias = model.classifier.bias.detach().double() + model.classifier.weight.double() @ x.mean(0)
    logits = ((x - x.mean(0)) / spread) @ weight.T + bias.detach()
    objective = torch.nn.functional.cross_entropy(logits, torch.tensor(train.targets))
    (objective + found["penalty"] * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-3


def test_the_probe_learns_nothing_where_there_is_nothing_to_learn():
    model = encoder(ngrams=0).eval()
    draw = random.Random(0)
    train, held = (
        replace(part, targets=[draw.randrange(2) for _ in part.rows])
        for part in (sequences(model, 12, 0), sequences(model, 200, 1))
    )
    found = fit_probe(model, train, held)
    assert len(train.rows) < model.config.width  # so that any targets can be had by heart
    # Chance is 0.69; penalties up to 0.01 end at 1.88.
    assert found["penalty"] == PENALTIES[-1] and found["val_loss"] < 1.0


def tagged(n: int, seed: int) -> Tagged:
    """Sentences in which a name of two words follows "woman" and "man"."""
    draw = random.Random(seed)
    data = Tagged()
    for _ in range(n):
        words, tags = [], []
        for word in draw.choices(WORDS, k=draw.randint(3, 12)):
            words.append(word)
            tags.append("O")
            if word in ("man", "woman"):
                words += [draw.choice(GOOD), draw.choice(BAD)]
                tags += ["B-PER", "I-PER"]
        data.sentences.append(words)
        data.tags.append(tags)
    return data


@pytest.mark.parametrize("make", [encoder, decoder])
def test_a_tagger_learns_entities_of_more_than_one_word(tmp_path, make):
    labels = ["O", "B-PER", "I-PER"]
    model = encoder(task="token", labels=labels, ngrams=0, context=24)
    if make is decoder:
        torch.manual_seed(5)
        config = replace(decoder().config, task="token", labels=labels)
        model = DecoderClassifier(config)
    config = replace(CONFIG, steps=120, batch=16, lr=1e-2, eval_every=40)
    found = TokenClassification(model, TOKENIZER, tagged(200, 0), tagged(40, 1), config)
    result = fit(found, config, tmp_path, progress=False)
    assert result.best["val_f1"] > 0.97 and result.best["val_accuracy"] > 0.97
    lines = [m for m in read_metrics(result.metrics) if "val_f1" in m]
    assert [m["step"] for m in lines] == [40, 80, 120]
    assert load(result.best_checkpoint)[0].config.labels == labels


def test_a_sentence_whose_words_have_no_token_is_left_out():
    pieces = [Piece(0, 0, [4, 5], [0, 1]), Piece(1, 0, [6], [-1])]
    found = with_targets(pieces, [["O", "B-X"], ["O"]], ["O", "B-X"])
    assert found.rows == [[4, 5]] and found.targets == [[0, 1]]


def test_targets_beyond_the_labels_are_refused_before_training():
    data = sequences(encoder(), 6, 0)
    wrong = replace(data, targets=[0, 1, 2, 0, 1, 0])
    for pair, name in (((wrong, data), "train_data"), ((data, wrong), "val_data")):
        with pytest.raises(ValueError, match=rf"{name} has the target 2, expected 0 to 1"):
            Classification(encoder(), TOKENIZER, *pair, CONFIG)


def test_numpys_integers_are_targets_too():
    numbers = np.asarray([0, 1, 1, 0])
    batches = LengthBatches(Sequences([[1], [2], [3], [4]], list(numbers)), 4)
    assert sorted(batches.next()[1].tolist()) == [0, 0, 1, 1]


def test_other_smoothing_or_types_are_another_run(tmp_path):
    fit(task(), CONFIG, tmp_path, progress=False)
    longer = replace(CONFIG, steps=10)
    with pytest.raises(ValueError, match="trained on other data"):
        fit(task(label_smoothing=0.5), longer, tmp_path, progress=False, resume=True)
    data = sequences(encoder(), 4, 0)
    types = [[0] * len(row) for row in data.rows]
    assert replace(data, types=types).fingerprint() != data.fingerprint()


def test_a_probe_needs_two_texts():
    data = sequences(encoder(), 4, 0)
    one = Sequences(data.rows[:1], data.targets[:1])
    with pytest.raises(ValueError, match="train_data has 1 row, expected at least 2"):
        fit_probe(encoder(), one, data)


def test_rows_and_targets_must_be_as_many():
    with pytest.raises(ValueError, match="2 rows and 1 targets"):
        Sequences([[1], [2]], [0])
    with pytest.raises(ValueError, match="0 rows"):
        Sequences([], [])
    with pytest.raises(ValueError, match="batch is 0"):
        LengthBatches(Sequences([[1]], [0]), 0)


def test_adapters_beside_a_checkpoint_of_a_classifier_are_refused_by_their_folder(tmp_path):
    fit(task(decoder()), CONFIG, tmp_path, progress=False)
    (tmp_path / "last" / "adapter").mkdir()
    with pytest.raises(CorruptFileError, match="adapter: holds adapters, and the model is a"):
        load_checkpoint(tmp_path / "last")


def test_a_probe_of_an_encoder_without_a_classifier_is_refused():
    data = sequences(encoder(), 4, 0)
    with pytest.raises(ValueError, match=r"no classes: its config\.task is None"):
        fit_probe(encoder(task=None, labels=None, ngrams=0), data, data)
