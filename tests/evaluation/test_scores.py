"""Scores of classifiers and taggers against slow formulas of their own; reports as files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fusedlm.evaluation import classification_report, entity_report, spans, worst_errors
from fusedlm.evaluation.entities import wrong_sentences
from fusedlm.evaluation.report import summary, write_report

LABELS = ["no", "perhaps", "yes"]


def sample(n: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.Generator(np.random.PCG64(seed))
    logits = draw.normal(size=(n, 3)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities, draw.integers(0, 3, n)


def test_scores_are_those_of_their_definitions():
    probabilities, targets = sample()
    report = classification_report(probabilities, targets, LABELS)
    predicted = [max(range(3), key=row.__getitem__) for row in probabilities.tolist()]
    pairs = list(zip(targets.tolist(), predicted, strict=True))
    assert report["accuracy"] == sum(a == b for a, b in pairs) / 500
    for i, label in enumerate(LABELS):
        hits = sum(a == b == i for a, b in pairs)
        precision = hits / sum(b == i for _, b in pairs)
        recall = hits / sum(a == i for a, _ in pairs)
        found = report["classes"][label]
        assert found["precision"] == pytest.approx(precision)
        assert found["recall"] == pytest.approx(recall)
        assert found["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
        assert [report["confusion"][i][j] for j in range(3)] == [
            sum(pair == (i, j) for pair in pairs) for j in range(3)
        ]
    f1 = [report["classes"][label]["f1"] for label in LABELS]
    assert report["macro_f1"] == pytest.approx(sum(f1) / 3)
    rows = zip(targets.tolist(), probabilities.tolist(), strict=True)
    brier = [sum((p - (j == t)) ** 2 for j, p in enumerate(row)) for t, row in rows]
    assert report["brier"] == pytest.approx(sum(brier) / 500)
    json.dumps(report)


def test_ece_is_the_mean_distance_of_confidence_from_accuracy():
    probabilities, targets = sample()
    expected = 0.0
    for b in range(15):
        inside = [
            (p.max(), p.argmax() == t)
            for p, t in zip(probabilities, targets, strict=True)
            if b / 15 < p.max() <= (b + 1) / 15
        ]
        if inside:
            confidence, right = (sum(x) / len(inside) for x in zip(*inside, strict=True))
            expected += len(inside) / 500 * abs(confidence - right)
    report = classification_report(probabilities, targets, LABELS)
    assert report["ece"] == pytest.approx(expected)
    assert sum(one["examples"] for one in report["calibration"]) == 500
    sure = np.eye(3)[targets]
    assert classification_report(sure, targets, LABELS)["ece"] == 0.0


def test_a_class_that_is_never_predicted_or_never_there_scores_zero():
    probabilities = np.tile([0.6, 0.4, 0.0], (4, 1))
    report = classification_report(probabilities, [0, 0, 1, 1], LABELS)
    assert report["classes"]["perhaps"]["precision"] == 0.0
    assert report["classes"]["yes"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    with pytest.raises(ValueError, match=r"shape \[4, 3\], expected \[3, 3\]"):
        classification_report(probabilities, [0, 0, 1], LABELS)


def test_the_worst_errors_come_first_and_long_texts_are_shortened():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.99, 0.01], [0.6, 0.4]])
    texts = ["a", "b", "begin " + "x" * 9000 + " end", "d"]
    found = worst_errors(probabilities, [1, 1, 1, 0], texts, ["n", "y"])
    assert [e["probability_of_label"] for e in found] == [0.01, 0.1]
    assert found[0]["text"].startswith("begin") and found[0]["text"].endswith("end")
    assert len(found[0]["text"]) < 500 and found[1] == {
        "text": "a", "label": "y", "predicted": "n", "probability_of_label": 0.1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-X I-X O", [("X", 0, 2)]),
        ("I-X I-X B-X", [("X", 0, 2), ("X", 2, 3)]),  # IOB1
        ("B-X I-Y I-Y", [("X", 0, 1), ("Y", 1, 3)]),
        ("O B-X B-X", [("X", 1, 2), ("X", 2, 3)]),
        ("B-X I-X E-X S-Y O", [("X", 0, 3), ("Y", 3, 4)]),  # IOBES
        ("U-X B-Y L-Y L-Y", [("X", 0, 1), ("Y", 1, 3), ("Y", 3, 4)]),  # BILOU
        ("O O", []),
        ("", []),
    ],
)
def test_tags_mean_the_spans_that_conll_counts(tags, expected):
    assert spans(tags.split()) == expected


def test_entities_count_where_kind_and_both_ends_are_right():
    truth = [["B-X", "I-X", "O", "B-Y"], ["B-Y", "O"]]
    guess = [["B-X", "O", "O", "B-Y"], ["B-X", "B-Y"]]
    report = entity_report(truth, guess)
    assert report["precision"] == 1 / 4 and report["recall"] == 1 / 3
    assert report["f1"] == pytest.approx(2 / 7)
    assert report["kinds"]["Y"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert report["tag_accuracy"] == 3 / 6
    errors = wrong_sentences([list("abcd"), list("ef")], truth, guess)
    assert errors[0]["label"] == "Y: e" and errors[0]["predicted"] == "X: e, Y: f"
    with pytest.raises(ValueError, match="sentence 1 has 1 tags, expected 2"):
        entity_report(truth, [guess[0], ["O"]])


def test_a_report_is_a_folder_with_numbers_words_and_plots(tmp_path):
    probabilities, targets = sample()
    report = classification_report(probabilities, targets, LABELS)
    texts = [f"text <{i}>" for i in range(500)]
    report |= {
        "errors": worst_errors(probabilities, targets, texts, LABELS, 3),
        "left_out": ["2 left out: no text"],
    }
    folder = write_report(tmp_path / "report", report, title="A model")
    assert json.loads((folder / "report.json").read_text())["accuracy"] == report["accuracy"]
    words = (folder / "report.md").read_text()
    for part in (
        "# A model",
        "perhaps",
        "confusion.png",
        "no text",
        "&lt;",
        f"{report['ece']:.4f}",
    ):
        assert part in words
    for name in ("confusion.png", "calibration.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    many = classification_report(np.eye(40), range(40), [f"class {i}" for i in range(40)])
    write_report(folder, many, title="Again")  # in place of the old one
    assert "confusion.png and report.json" in summary(many)
    tagged = entity_report([["B-X"]], [["B-X"]])
    write_report(folder, tagged, title="Tags")
    assert not (folder / "confusion.png").exists() and "all entities" in summary(tagged)
