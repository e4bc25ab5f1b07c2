"""The model card that every training command leaves: data, settings, metrics, energy and time, licences."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from fusedlm.models import save
from tests.cli.test_answer import write_squad
from tests.cli.test_classify import SMALL as SMALL_CLASSIFIER
from tests.cli.test_classify import conll, reviews, write_csv
from tests.cli.test_translate import SMALL as SMALL_TRANSLATOR
from tests.cli.test_tune import QUICK
from tests.support.kinds import kind_encoder, kind_questions, kind_tokenizer
from tests.support.tiny import TEXT, save_tiny_model
from tests.train.test_translation import PAIRS

TINY = (
    "--layers 1 --width 16 --heads 2 --context 16 --vocab-size 270 --steps 2 --batch 2"
    " --precision float32 --quiet"
).split()


def card(folder) -> tuple[dict, dict[str, str]]:
    """What is in front, and the sections by their titles."""
    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    parts = body.split("\n## ")[1:]
    return yaml.safe_load(front), {part.split("\n")[0]: part for part in parts}


def write_lines(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def text_model(folder):
    (folder / "text.txt").write_text(TEXT)
    return ["train", folder / "text.txt", *TINY]


def classifier(folder):
    return ["classify", "train", write_csv(folder / "r.csv", reviews(240, 0)), *SMALL_CLASSIFIER]


def probe(folder):
    (folder / "base").mkdir()
    torch.manual_seed(0)
    tokenizer = kind_tokenizer()
    save(folder / "base", kind_encoder(tokenizer, task=None), tokenizer)
    (folder / "base" / "README.md").write_text("---\nlicense: apache-2.0\n---\nA base.\n")
    rows = [(q.context, "yes" if q.answers else "no") for q in kind_questions(80, 0)]
    data = write_csv(folder / "r.csv", rows)
    return ["classify", "train", data, "--from", folder / "base", "--preset", "probe", "--quiet"]


def tagger(folder):
    (folder / "train.conll").write_text(conll(60, 0))
    return ["classify", "train", folder / "train.conll", *SMALL_CLASSIFIER, "--epochs", 1]


def translator(folder):
    for side, name in enumerate(("a.en", "a.de")):
        (folder / name).write_text("".join(pair[side] + "\n" for pair in PAIRS), encoding="utf-8")
    return ["translate", "train", folder / "a.en", folder / "a.de", "--steps", 3, *SMALL_TRANSLATOR]


def chat(folder):
    rows = [{"instruction": f"say {i}", "input": "", "output": f"fox {i}"} for i in range(8)]
    base = save_tiny_model(folder / "base", chat=False)
    return ["tune", write_lines(folder / "c.jsonl", rows), "--from", base, "--lora", 2, *QUICK]


def preferences(folder):
    rows = [{"prompt": f"say {i}", "chosen": "fox", "rejected": "the dog"} for i in range(8)]
    base = save_tiny_model(folder / "base", chat=False)
    data = write_lines(folder / "p.jsonl", rows)
    return ["tune", data, "--preferences", "--beta", 0.3, "--from", base, *QUICK]


def reader(folder):
    data = write_squad(folder / "q.json", kind_questions(60, 0))
    tokenizer = kind_tokenizer()
    save(folder / "base", kind_encoder(tokenizer), tokenizer)
    options = ["--epochs", 1, "--batch", 32, "--freeze", 0, "--precision", "float32", "--quiet"]
    return ["answer", "train", data, "--from", folder / "base", *options]


# How each is made, and rows that its card must have, by section.
RUNS = {
    text_model: {
        "Data": ["source | text.txt", "training tokens | "], "Settings": ["lr | 0.001"],
        "Metrics": ["val loss"],
    },
    classifier: {
        "Data": ["source | r.csv", "training texts | "],
        "Settings": ["preset | scratch", "epochs | 3", "label smoothing | 0", "lr | 0.01"],
        "Metrics": ["val accuracy", "On the test part of r.csv.", "macro f1", "report/report.md"],
    },
    probe: {
        "Data": ["source | r.csv", "training texts | "],
        "Settings": ["base model | base (licence: apache-2.0)", "preset | probe", "penalty | "],
        "Metrics": ["val accuracy", "On the test part of r.csv.", "macro f1"],
    },
    tagger: {
        "Data": ["source | train.conll", "training sentences | "],
        "Settings": ["preset | scratch"],
        "Metrics": ["val f1", "On the test part of train.conll.", "tag accuracy"],
    },
    translator: {
        "Data": ["source | a.en, a.de", "training pairs | ", "validation pairs | "],
        "Settings": ["label smoothing | 0.1", "objective | val_loss"],
        "Metrics": ["val loss"],
    },
    chat: {
        "Data": ["source | c.jsonl", "training conversations | "],
        "Settings": ["base model | base", "kind | chat", "lora rank | 2"],
        "Metrics": ["val loss"],
    },
    preferences: {
        "Data": ["source | p.jsonl", "training pairs | "],
        "Settings": ["base model | base", "kind | preferences", "beta | 0.3"],
        "Metrics": ["val loss"],
    },
    reader: {
        "Data": ["source | q.json", "training questions | ", "training windows | "],
        "Settings": ["base model | base", "freeze | 0", "epochs | 1"],
        "Metrics": ["val f1", "val exact"],
    },
}  # fmt: skip


@pytest.mark.parametrize("make", RUNS, ids=lambda make: make.__name__)
def test_the_card_of_every_training_command_says_all_that_is_known(run, tmp_path, make):
    out = tmp_path / "mine"
    licences = ["--license", "mit", "--data-license", "cc0-1.0"]
    code, _, err = run(*make(tmp_path), "--out", out, *licences)
    assert code == 0, err
    front, sections = card(out / "best")
    assert front["license"] == "mit"
    assert ("base_model" in front) == ("base model" in sections["Settings"])
    for section, rows in RUNS[make].items():
        for row in rows:
            assert row in sections[section]
    assert "| licence | cc0-1.0 |" in sections["Data"] and "fingerprint" in sections["Data"]
    for row in ("| time | ", "| CPU time | ", "| energy | "):
        assert row in sections["Energy and time"]
    assert "| time | not measured |" not in sections["Energy and time"]
    assert "torch" in sections["How it was made"] and "not known" not in sections["How it was made"]


def test_licences_outlive_resuming_and_those_of_known_data_are_filled_in(
    run, tmp_path, monkeypatch
):
    tiny = {"layers": 1, "width": 16, "heads": 2, "context": 16}
    monkeypatch.setattr("fusedlm.cli.quickstart.MODEL", tiny)
    out = tmp_path / "first"
    options = ["--steps", 2, "--precision", "float32", "--quiet"]
    code, _, err = run("quickstart", "--out", out, *options)
    assert code == 0, err
    front, sections = card(out / "best")
    assert "license" not in front and "| licence | public domain |" in sections["Data"]
    assert "| source | shakespeare |" in sections["Data"]
    code, _, err = run("card", out, "--license", "mit", "--watts-per-core", 8)
    assert code == 0, err
    (out / "best" / "README.md").unlink()
    code, _, err = run("train", "--resume", "--out", out, "--steps", 3, "--quiet")
    assert code == 0, err
    front, sections = card(out / "last")
    assert front["license"] == "mit" and "| licence | public domain |" in sections["Data"]
    assert "x 8 W a core" in sections["Energy and time"] or "RAPL" in sections["Energy and time"]


@pytest.mark.parametrize(
    "make, command, rows",
    [
        (text_model, ["eval", "text.txt"], ["On text.txt.", "bits per byte | "]),
        (classifier, ["classify eval", "r.csv"], ["On r.csv.", "accuracy | "]),
        (translator, ["translate eval"], ["On the test part.", "bleu | ", "chrf | "]),
        (reader, ["answer eval", "q.json"], ["On q.json.", "exact | "]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_run_scores_afterwards_is_added_to_its_card(run, tmp_path, make, command, rows):
    out = tmp_path / "mine"
    assert run(*make(tmp_path), "--out", out)[0] == 0
    name, *data = command
    for _ in range(2):
        code, _, err = run(*name.split(), out, *(tmp_path / file for file in data), "--quiet")
        assert code == 0, err
    metrics = card(out / "best")[1]["Metrics"]
    for row in rows:
        assert row in metrics
    assert metrics.count(rows[0]) == 1
