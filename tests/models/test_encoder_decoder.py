"""The encoder-decoder against plain torch, its files, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch

from fusedlm.errors import CorruptFileError
from fusedlm.models import EncoderDecoder, EncoderDecoderConfig, load, save
from fusedlm.models.packed import Packed
from fusedlm.train.pair_batches import PairBatch
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.encoder_decoder_twin import EncoderDecoderTwin
from tests.support.pairs import SHAPE, random_pairs, small_encoder_decoder

VARIANTS = {
    "learned positions, RMSNorm, SwiGLU": {},
    "rotary positions": {"position": "rope", "rope_base": 500.0},
    "LayerNorm, GELU, biases": {"norm": "layer_norm", "activation": "gelu", "bias": True},
    "examples beside the source": {"examples": 2},
    "examples, rotary positions": {"examples": 2, "position": "rope"},
    "a deep encoder and a shallow decoder": {"layers": 3, "decoder_layers": 1, "ffn_width": 40},
}
PAIRS = [*random_pairs(5), ([[3]], []), ([[4, 5]], [6])]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())
def test_loss_and_every_gradient_equal_the_plain_torch_twin(fields, label_smoothing):
    model = small_encoder_decoder(**fields).train()
    single = EncoderDecoderTwin(model.config, model.state_dict(), torch.float32)
    double = EncoderDecoderTwin(model.config, model.state_dict())
    pairs = PAIRS
    if model.config.examples:
        pairs = [*random_pairs(5, examples=2, longest=7), ([[3], [], []], [4])]
    batch = PairBatch.of(pairs, model)

    loss = model(batch.source, batch.target, batch.targets, label_smoothing=label_smoothing)
    loss.backward()
    plain, truth = (twin.pairs_loss(pairs, label_smoothing) for twin in (single, double))
    assert_as_accurate_as_torch(loss, plain, truth, "loss")
    gradients = {name: p.grad for name, p in model.named_parameters()}
    in_single, in_double = (t.pairs_gradients(pairs, label_smoothing) for t in (single, double))
    assert gradients.keys() == in_double.keys()
    for name, gradient in gradients.items():
        assert_as_accurate_as_torch(gradient, in_single[name], in_double[name], name)


def test_bfloat16_is_as_accurate_as_torch_in_bfloat16():
    model = small_encoder_decoder(spread=1.0)
    batch = PairBatch.of(PAIRS, model)
    truth = EncoderDecoderTwin(model.config, model.state_dict())
    plain = EncoderDecoderTwin(model.config, model.state_dict(), torch.bfloat16)
    model.compute_dtype = torch.bfloat16
    logits = model(batch.source, batch.target)
    of = lambda twin: torch.cat([twin.logits_of(*pair) for pair in PAIRS])  # noqa: E731
    assert_as_accurate_as_torch(logits, of(plain), of(truth), "logits")


def test_a_pair_has_the_same_logits_alone_and_beside_others():
    model = small_encoder_decoder()
    whole = PairBatch.of(PAIRS, model)
    with torch.no_grad():
        together = model(whole.source, whole.target).split(whole.target.lengths.tolist())
        for pair, logits in zip(PAIRS, together, strict=True):
            batch = PairBatch.of([pair], model)
            torch.testing.assert_close(model(batch.source, batch.target), logits)


def test_targets_that_are_ignored_do_not_count():
    model = small_encoder_decoder()
    batch = PairBatch.of(PAIRS, model)
    counted = torch.arange(len(batch.targets)) % 3 > 0
    targets = batch.targets.masked_fill(~counted, model.config.ignore_index)
    logits = model(batch.source, batch.target)
    expected = torch.nn.functional.cross_entropy(logits[counted], batch.targets[counted])
    torch.testing.assert_close(model(batch.source, batch.target, targets), expected)


def test_targets_that_are_ignored_do_not_count_beside_examples_either():
    model = small_encoder_decoder(examples=1)
    batch = PairBatch.of(random_pairs(4, examples=1), model)
    counted = torch.arange(len(batch.targets)) % 3 > 0
    targets = batch.targets.masked_fill(~counted, model.config.ignore_index)
    found = model(batch.source, batch.target)
    expected = torch.nn.functional.nll_loss(found[counted], batch.targets[counted])
    torch.testing.assert_close(model(batch.source, batch.target, targets), expected)


def test_dropout_changes_training_only():
    model = small_encoder_decoder(dropout=0.5)
    batch = PairBatch.of(PAIRS, model)
    losses = [model(batch.source, batch.target, batch.targets).item() for _ in range(2)]
    assert losses[0] == losses[1]
    model.train()
    assert model(batch.source, batch.target, batch.targets).item() != losses[0]


def test_a_saved_model_is_loaded_bit_for_bit(tmp_path):
    model = small_encoder_decoder(position="rope", decoder_layers=1)
    save(tmp_path / "m", model, None)
    loaded, _ = load(tmp_path / "m")
    assert isinstance(loaded, EncoderDecoder) and loaded.config == model.config
    batch = PairBatch.of(PAIRS, model)
    with torch.no_grad():
        same = torch.equal(loaded(batch.source, batch.target), model(batch.source, batch.target))
    assert same


@pytest.mark.parametrize("kind", ["decoder-encoder", ["encoder"], 3])
def test_an_unknown_kind_of_model_is_named(tmp_path, kind):
    save(tmp_path / "m", small_encoder_decoder(), None)
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "kind": kind}))
    with pytest.raises(CorruptFileError, match=r"config\.json: kind is .*encoder-decoder"):
        load(tmp_path / "m")


def test_more_layers_than_the_file_has_are_refused_before_they_are_made(tmp_path):
    save(tmp_path / "m", small_encoder_decoder(), None)
    file = tmp_path / "m" / "config.json"
    values = {**json.loads(file.read_text()), "decoder_layers": 10**9}
    file.write_text(json.dumps(values))
    with pytest.raises(CorruptFileError, match="too few for 1000000002 layers"):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 5}, "heads is 5, expected a divisor of width=32"),
        ({"heads": 32, "position": "rope"}, "heads is 32, expected so many that width / heads is even"),
        ({"position": "none"}, "position is 'none', expected one of learned, rope"),
        ({"decoder_layers": 0}, "decoder_layers is 0"),
        ({"dropout": 1}, r"dropout is 1, expected a number in \[0, 1\)"),
        ({"end_id": 37}, "end_id is 37, expected a token below vocab_size=37"),
        ({"activation": "tanh"}, "activation is 'tanh'"),
    ],
)  # fmt: skip
def test_a_config_names_the_field_that_does_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        EncoderDecoderConfig(**{**SHAPE, **fields})


def test_sources_beyond_the_context_and_unequal_counts_are_refused():
    model = small_encoder_decoder()
    one, two = Packed.of([[1, 2]]), Packed.of([[1], [2]])
    with pytest.raises(ValueError, match="target packs 2 sequences, expected 1 as source does"):
        model(one, two)
    with pytest.raises(ValueError, match="source has a sequence of 25 tokens, the context is 24"):
        model(Packed.of([[1] * 25]), one)
    with pytest.raises(ValueError, match="target has a sequence of 25 tokens"):
        model(one, Packed.of([[1] * 25]))


@pytest.mark.parametrize("examples", [0, 2])
def test_more_examples_than_the_model_reads_are_refused(examples):
    model = small_encoder_decoder(examples=examples)
    rows = [[1, 2]] * (1 + examples)
    assert len(model.pack_sources([rows]).starts) == 2
    words = f"source 1 has {examples + 1} examples, expected at most {examples}"
    with pytest.raises(ValueError, match=words):
        model.pack_sources([rows, [*rows, [3]]])


def test_parts_for_a_model_that_reads_no_examples_are_refused():
    model = small_encoder_decoder()
    tokens, positions = torch.tensor([[1, 2]]), torch.arange(2)
    with pytest.raises(ValueError, match="parts is given, and this model reads no examples"):
        model.embed(tokens, positions, torch.zeros(2, dtype=torch.int64))
