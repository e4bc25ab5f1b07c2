"""fusedlm choices as a user types it: what it prints, writes and leaves out."""

from __future__ import annotations

import json

import pytest
import torch

from fusedlm.data import train_words
from fusedlm.models import Decoder, ModelConfig, save

GOOD = {"query": "one two", "choices": ["three", "four"], "gold": 0}


@pytest.fixture
def folder(tmp_path):
    words = train_words("one two three four five", 10)
    torch.manual_seed(0)
    config = ModelConfig.llama(vocab_size=words.vocab_size, context=16, layers=1, width=16, heads=2)
    save(tmp_path / "model", Decoder(config), words)
    return tmp_path / "model"


def test_bad_items_are_left_out_and_counted_before_the_others_are_scored(run, folder, tmp_path):
    items, answers, out = (tmp_path / name for name in ("items.jsonl", "a.jsonl", "out.json"))
    lines = [
        GOOD, [1], {"query": "x", "choices": ["one"], "gold": 0}, {**GOOD, "gold": 9},
        {"query": "", "choices": ["one", " "], "gold": 0},
        {**GOOD, "choices": ["one", "two " * 17]}, {"choices": ["a", "b"], "gold": 0}, GOOD,
    ]  # fmt: skip
    written = "".join(json.dumps(line) + "\n" for line in lines)
    items.write_bytes(written.encode() + b'{"query": "\xff"}\n{"que')
    code, stdout, err = run(
        "choices", folder, items, "--precision", "float32", "--out", out, "--answers", answers, "--json"
    )  # fmt: skip
    assert code == 0, err
    expected = [
        f"3 left out: not a JSON object (the first: {items}:2)",
        f"1 left out: choices are not two or more texts (the first: {items}:3)",
        f"1 left out: the right answer is none of the choices (the first: {items}:4)",
        f"1 left out: a choice has no tokens, or nothing to begin with (the first: {items}:5)",
        f"1 left out: a choice has more than 16 tokens, the context (the first: {items}:6)",
        f"1 left out: none of query, context, question is there (the first: {items}:7)",
    ]
    found = json.loads(stdout)
    assert found["items"] == 2 and found["left_out"] == expected == err.splitlines()
    assert json.loads(out.read_text())["left_out"] == expected
    assert len(answers.read_text().splitlines()) == 2
    code, stdout, _ = run("choices", folder, items, "--limit", 1, "--quiet")
    assert code == 0 and "items     1" in stdout
    code, stdout, err = run("choices", folder, tmp_path / "no.jsonl", "--out", tmp_path)
    assert code == 2 and "is a directory" in err


def test_a_file_without_a_single_item_says_why(run, folder, tmp_path):
    items = tmp_path / "items.jsonl"
    items.write_text("[1]\n")
    code, _, err = run("choices", folder, items)
    assert code == 1
    assert f"{items} holds no items; 1 left out: not a JSON object (the first: {items}:1)" in err
    items.write_text("\n")
    code, _, err = run("choices", folder, items)
    assert code == 1 and err == f"error: {items} holds no items\n"
