"""Likelihoods against `transformers`, and the command that scores choices."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from fusedlm import _core
from fusedlm.cli.app import app
from fusedlm.evaluation import Likelihoods
from fusedlm.generate import LanguageModel, Vocabulary
from tests.evaluation.test_card import run as train_small
from tests.evaluation.test_likelihood import write_items
from tests.support.small import ByteTokenizer


def test_scores_equal_those_of_transformers(tmp_path):
    hugging = pytest.importorskip("tests.support.hugging")
    theirs = hugging.random_model(
        "LlamaForCausalLM", vocab_size=257, hidden_size=32, intermediate_size=48,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    made = _core.Model.load(str(hugging.saved(theirs, tmp_path)))
    model = LanguageModel(made, Vocabulary(ByteTokenizer()), dtype="float32")
    (score,) = Likelihoods(model, "float32").pairs([(list(b"one two"), list(b" three"))])
    with torch.no_grad():
        logits = theirs(torch.tensor([list(b"one two thre")])).logits[0, 6:].double()
    exact = logits.log_softmax(-1).gather(1, torch.tensor(list(b" three"))[:, None]).sum()
    assert score.log_likelihood == pytest.approx(float(exact), rel=2e-5)


def test_the_command_writes_numbers_and_answers(tmp_path):
    train_small(tmp_path / "r")
    items = [{"query": "a stitch", "choices": ["in", "nine"], "gold": 0}] * 3
    file = write_items(tmp_path / "items.jsonl", items)
    out, answers = tmp_path / "o.json", tmp_path / "a.jsonl"
    call = ["choices", tmp_path / "r", file, "--out", out, "--answers", answers, "--json"]
    done = CliRunner().invoke(app, [str(part) for part in call])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(lines) == 3 and lines[0]["choices"] == ["in", "nine"]
    result = json.loads(out.read_text())
    assert result["items"] == 3 and result["acc"] == float(lines[0]["best"] == 0)
