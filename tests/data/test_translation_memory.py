"""The translation memory: its similarity against the textbook, and what it finds."""

from __future__ import annotations

import random

import pytest

from fusedlm.data import TranslationMemory
from fusedlm.data.translation_memory import similarity

PAIRS = [
    ("Save the document", "Dokument speichern"), ("Save the file as", "Datei speichern als"),
    ("Close all windows", "Alle Fenster schließen"), ("Open the document", "Dokument öffnen"),
]  # fmt: skip


def textbook_similarity(a, b) -> float:
    """Longest common subsequence by the table of Wagner and Fischer."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            best = max(table[i][j + 1], table[i + 1][j])
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else best
    return 2 * table[-1][-1] / (len(a) + len(b)) if a and b else float(a == b)


def test_similarity_is_that_of_the_longest_common_subsequence():
    draw = random.Random(0)
    for _ in range(300):
        a, b = ("".join(draw.choices("abcd", k=draw.randint(0, 90))) for _ in range(2))
        assert similarity(a, b) == pytest.approx(textbook_similarity(a, b))
    assert similarity("a b c".split(), "a c".split()) == pytest.approx(0.8)


def test_a_known_source_is_found_whatever_its_case():
    match = TranslationMemory(PAIRS).look_up("close ALL windows")[0]
    assert match.target == "Alle Fenster schließen" and match.score == pytest.approx(1.0)


def test_the_nearest_come_first_and_no_more_than_asked_for():
    memory = TranslationMemory(PAIRS)
    found = memory.look_up("Save the documents", 3)
    assert [m.target for m in found[:2]] == ["Dokument speichern", "Dokument öffnen"]
    assert len(found) == 3 and found[0].score > found[1].score > found[2].score
    assert memory.look_up("Save the documents")[0] == found[0]


@pytest.mark.parametrize("count", [1, 32, 50])
def test_as_many_as_are_asked_for_are_found(count):
    memory = TranslationMemory([(f"Save document {i}", str(i)) for i in range(60)])
    found = memory.look_up("Save document 7", count)
    assert len(found) == count and found[0].target == "7"
    assert found[:1] == memory.look_up("Save document 7")


def test_others_are_those_of_another_source():
    memory = TranslationMemory([*PAIRS, ("Save the document:", "Dokument speichern:")])
    found = memory.look_up("save the document", others=True)[0]
    assert found.source in ("Open the document", "Save the file as")


def test_nothing_in_common_finds_nothing():
    assert TranslationMemory(PAIRS).look_up("日本") == []
    with pytest.raises(ValueError, match="pairs is empty"):
        TranslationMemory([])
