"""Words and parts of speech in Chinese sentences of chatterbot-corpus, tagged by jieba's dictionary.

The tags are a program's, not people's. A character is a word here, as in BERT's of Chinese: B-NOUN
begins a noun, I-NOUN goes on with it, O is of another kind.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from fusedlm.data import Tagged, read_tagged
from fusedlm.evaluation.entities import entity_report
from tests.support.real_data import dialogues

KINDS = {"n": "NOUN", "v": "VERB", "r": "PRON"}  # by the first letter of the People's Daily's tags
SMALL = (
    "--width 32 --context 64 --epochs 4 --batch 16 --lr 1e-2 --precision float32 --quiet"
).split()


def tagged_sentences() -> list[list[tuple[str, str]]]:
    tag = pytest.importorskip("rjieba").tag
    sentences = dict.fromkeys(m["content"] for talk in dialogues("chinese") for m in talk)
    rows = []
    for sentence in sentences:
        row = []
        for word, kind in tag(sentence):
            name = KINDS.get(kind[0])
            for place, character in enumerate(word.strip()):
                row.append((character, f"{'BI'[place > 0]}-{name}" if name else "O"))
        rows.append(row)
    return rows


def write_conll(path: Path, rows: list[list[tuple[str, str]]]) -> Path:
    sentences = ("".join(f"{word}\t{tag}\n" for word, tag in row) for row in rows)
    path.write_text("\n".join(sentences), encoding="utf-8")
    return path


def f1_of_the_likeliest_tags(train: Tagged, held: Tagged) -> float:
    """What a table is worth that gives each character the tag it has most often."""
    counts: dict[str, Counter[str]] = {}
    for words, tags in zip(train.sentences, train.tags, strict=True):
        for word, tag in zip(words, tags, strict=True):
            counts.setdefault(word, Counter())[tag] += 1
    likeliest = {word: found.most_common(1)[0][0] for word, found in counts.items()}
    guessed = [[likeliest.get(word, "O") for word in words] for words in held.sentences]
    return entity_report(held.tags, guessed)["f1"]


def test_a_tagger_finds_the_words_of_sentences_held_out(run, tmp_path):
    rows = tagged_sentences()
    held = write_conll(tmp_path / "held.conll", rows[::4])
    rest = write_conll(
        tmp_path / "rest.conll", [row for number, row in enumerate(rows) if number % 4]
    )
    out = tmp_path / "run"
    code, _, err = run("classify", "train", rest, "--test", held, "--out", out, *SMALL)
    assert code == 0, err
    report = json.loads((out / "report" / "report.json").read_text(encoding="utf-8"))
    assert set(report["kinds"]) == set(KINDS.values()) and report["sentences"] > 200
    # 650 sentences are enough for what the characters say (measured 0.59, the table 0.60), hardly for more.
    assert report["f1"] > 0.8 * f1_of_the_likeliest_tags(read_tagged(rest), read_tagged(held)) > 0.4
    assert report["kinds"]["PRON"]["f1"] > 0.8  # 我, 你, 什么, ...
