"""The candidate with the largest expected chrF."""

from __future__ import annotations

import math
import random

import pytest

from fusedlm.generate.consensus import chrf, most_agreed, weights_of


def sentences(count: int) -> list[str]:
    draw = random.Random(0)
    words = "Öffnet das Fenster mit %1 und schließt Fensterbänke 打开 窗口 a".split()
    return [" ".join(draw.choices(words, k=draw.randint(0, 6))) for _ in range(count)]


def test_chrf_is_that_of_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu")
    texts = [*sentences(40), "x", "xy", "  "]
    for text, reference in zip(texts, reversed(texts), strict=True):
        if text.strip() and reference.strip():
            expected = sacrebleu.sentence_chrf(text, [reference], eps_smoothing=False).score / 100
            assert chrf(text, reference) == pytest.approx(expected, abs=1e-9), (text, reference)
    assert chrf("", " ") == 1.0 and chrf("", "a") == chrf("a", "") == 0.0


def test_the_text_that_others_are_like_wins_over_a_likelier_one():
    texts = ["gelb", "Das rote Haus", "Das rote Haus steht", "Das rote Haus stand"]
    assert most_agreed(texts, [0.4, 0.2, 0.2, 0.2]) == 2
    assert most_agreed(texts, [0.9, 0.04, 0.03, 0.03]) == 0
    assert most_agreed(["one"], [1.0]) == most_agreed(["same", "same"], [0.1, 0.9]) == 0
    for texts, weights in (([], []), (["a"], [0.5, 0.5])):
        with pytest.raises(ValueError, match="expected as many, and some"):
            most_agreed(texts, weights)


def test_weights_are_sharpened_probabilities_however_small_these_are():
    logs = [-1000.0, -1001.0, -1004.0]
    found = weights_of(logs, 0.5)
    expected = [math.exp(0.5 * (x + 1000)) for x in logs]
    assert found == pytest.approx([x / sum(expected) for x in expected])
    assert weights_of(logs, 0.0) == pytest.approx([1 / 3] * 3)
