"""Exact match and F1 of answers, by SQuAD 2.0's rules."""

from __future__ import annotations

import random

import pytest

from fusedlm.data import Question
from fusedlm.evaluation import answer_report
from fusedlm.evaluation.answers import exact, f1, threshold_curve, words_of


@pytest.mark.parametrize(
    ("text", "reference", "same", "share"),
    [
        ("The Eiffel Tower", "eiffel tower!", 1, 1.0),
        ("an apple a day", "apple day", 1, 1.0),
        ("theory", "ory", 0, 0.0),  # "the" is an article only as a word
        ("in the big old house", "old house", 0, 2 * 2 / (4 + 2)),
        ("blue blue sky", "blue", 0, 2 * 1 / (3 + 1)),  # a word counts as often as both have it
        ("", "", 1, 1.0),
        ("", "word", 0, 0.0),
        ("the", "word", 0, 0.0),
        ("北京大学", "北京", 0, 2 * 2 / (4 + 2)),
        ("《红楼梦》", "红楼梦。", 1, 1.0),
    ],
)
def test_words_count_without_case_punctuation_and_articles(text, reference, same, share):
    assert (exact(text, reference), f1(text, reference)) == (same, pytest.approx(share))


def questions(count: int, seed: int) -> tuple[list[Question], list[str], list[float]]:
    draw = random.Random(seed)
    words = "north south east west".split()
    rows, texts, margins = [], [], []
    for number in range(count):
        answers = [(draw.choice(words), 0) for _ in range(draw.randint(0, 2))]
        rows.append(Question(str(number), "?", "-", answers))
        texts.append(" ".join(draw.sample(words, draw.randint(1, 2))))
        margins.append(draw.choice([-2.0, -1.0, -0.5, 0.0, 0.5, 3.0]))  # with ties
    return rows, texts, margins


def brute_force(rows, texts, margins, threshold):
    given = ["" if m > threshold else t for t, m in zip(texts, margins, strict=True)]
    best = lambda score, row, text: max(score(text, r) for r, _ in row.answers or [("", 0)])  # noqa: E731
    return [
        100 * sum(best(score, row, text) for row, text in zip(rows, given, strict=True)) / len(rows)
        for score in (exact, f1)
    ]


def test_the_report_takes_the_best_reference_and_answers_up_to_the_threshold():
    rows, texts, margins = questions(60, 0)
    for threshold in (-5.0, -0.5, 0.0, 9.0):
        found = answer_report(rows, texts, margins, threshold)
        expected = brute_force(rows, texts, margins, threshold)
        assert [found["exact"], found["f1"]] == pytest.approx(expected)
        with_answer = [i for i, row in enumerate(rows) if row.answers]
        part = [[each[i] for i in with_answer] for each in (rows, texts, margins)]
        assert found["answerable"]["count"] == len(with_answer)
        assert found["answerable"]["f1"] == pytest.approx(brute_force(*part, threshold)[1])
    assert found["unanswerable"] == {"count": 60 - len(with_answer), "exact": 0.0, "f1": 0.0}


def test_the_curve_holds_every_threshold_that_changes_something_and_its_best_is_the_best():
    rows, texts, margins = questions(60, 1)
    curve = threshold_curve(rows, texts, margins)
    thresholds = [-3.0, -1.5, -0.75, -0.25, 0.25, 1.75, 4.0]  # between the margins and beyond them
    assert [point["threshold"] for point in curve] == thresholds
    for point in curve:
        expected = brute_force(rows, texts, margins, point["threshold"])
        assert [point["exact"], point["f1"]] == pytest.approx(expected)
    found = answer_report(rows, texts, margins)
    assert found["best_f1"] == pytest.approx(max(point["f1"] for point in curve))
    again = answer_report(rows, texts, margins, found["best_threshold"])
    assert again["f1"] == pytest.approx(found["best_f1"])


def test_errors_are_the_questions_whose_answer_is_not_exactly_right():
    rows = [Question("a", "one?", "-", [("north", 0), ("north", 7)]), Question("b", "two?", "-")]
    found = answer_report(rows, ["north", "south"], [-1.0, -1.0])
    assert found["errors"] == [{"id": "b", "question": "two?", "given": "south", "expected": []}]
    assert words_of("A North, an Eastern") == ["north", "eastern"]


def test_lists_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="2 texts and 1 margins for 1 questions"):
        answer_report([Question("a", "?", "-")], ["x", "y"], [0.0])
    with pytest.raises(ValueError, match="at least one"):
        answer_report([], [], [])
