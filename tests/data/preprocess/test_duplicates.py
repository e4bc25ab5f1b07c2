from __future__ import annotations

import random

import numpy as np
import pytest

from fusedlm.data.preprocess import NearDuplicates
from fusedlm.data.preprocess.duplicates import (
    PERMUTATIONS,
    SHINGLE,
    ExactDuplicates,
    Places,
    exact_signature,
    near_signature,
    rows_of_a_band,
)
from fusedlm.data.preprocess.hashes import HashMap


def words(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [f"w{draw.randrange(5000)}" for _ in range(count)]


def jaccard(a: list[str], b: list[str]) -> float:
    sets = [
        {tuple(text[i : i + SHINGLE]) for i in range(len(text) - SHINGLE + 1)} for text in (a, b)
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def with_changes(text: list[str], count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    changed = list(text)
    for place in draw.sample(range(len(text)), count):
        changed[place] = f"new{draw.randrange(10**6)}"
    return changed


def test_signatures_estimate_the_jaccard_similarity():
    errors = []
    for seed in range(60):
        a = words(200, seed)
        b = with_changes(a, seed % 20, seed)
        alike = (near_signature(" ".join(a)) == near_signature(" ".join(b))).mean()
        errors.append(alike - jaccard(a, b))
    assert abs(np.mean(errors)) < 0.015  # no bias
    assert np.std(errors) < 1.3 * (0.25 / PERMUTATIONS) ** 0.5  # that of 128 fair draws at worst


def test_near_duplicates_are_found_and_others_are_not():
    known = NearDuplicates(0.8)
    texts = [words(300, seed) for seed in range(200)]
    assert all(
        known.check(near_signature(" ".join(t)), "a.txt", i) is None for i, t in enumerate(texts)
    )
    for i, text in enumerate(texts):
        near = with_changes(text, 4, i)
        assert jaccard(text, near) > 0.9
        found = known.check(near_signature(" ".join(near).upper()), "b.txt", i)
        assert found is not None and (found.file, found.line) == ("a.txt", i)
        far = with_changes(text, 60, i)
        assert jaccard(text, far) < 0.5
        assert known.check(near_signature(" ".join(far)), "b.txt", i) is None


def test_bands_find_a_pair_at_the_threshold_with_99_percent():
    for similarity in (0.5, 0.7, 0.8, 0.9, 0.95):
        rows = rows_of_a_band(similarity)
        bands = PERMUTATIONS // rows
        assert (1 - similarity**rows) ** bands <= 0.01
    assert rows_of_a_band(0.9) > rows_of_a_band(0.6) > 1
    with pytest.raises(ValueError, match=r"similarity is 0\.1, expected 0\.3 to 1"):
        NearDuplicates(0.1)


def test_short_texts_and_texts_of_signs_are_compared_too():
    known = NearDuplicates(0.8)
    for line, text in enumerate(["yes", "no", "yes no", "!!!", "???", "春", "眠"]):
        assert known.check(near_signature(text), "a", line) is None, text
    assert known.check(near_signature("Yes!"), "a", 9).line == 0
    assert known.check(near_signature("!!!"), "a", 9).line == 3


def test_exact_duplicates_are_equal_but_for_blanks_and_case():
    known = ExactDuplicates()
    assert known.check(exact_signature("The  cat\nsat"), "a", 1) is None
    assert known.check(exact_signature("the cat sat"), "a", 2).line == 1
    assert known.check(exact_signature("the cat sat."), "a", 3) is None


def test_a_hash_map_equals_a_dictionary(monkeypatch):
    monkeypatch.setattr(HashMap, "RECENT", 64)
    draw = np.random.default_rng(0)
    ours, plain = HashMap(), {}
    for number in range(3000):
        keys = draw.integers(0, 4000, 3).astype(np.uint64)
        expected = [plain[k] for k in keys.tolist() if k in plain]
        assert sorted(ours.find(keys)) == sorted(expected)
        if int(keys[0]) not in plain:
            ours.add(keys[:1], number)
            plain[int(keys[0])] = number
    assert 1 < len(ours._sorted) < 8


def test_places_beyond_the_32nd_bit_come_back():
    places = Places()
    for i in range(3000):
        places.add(f"f{i % 3}", i + (1 << 33))
    assert places.at(2999) == ("f2", 2999 + (1 << 33))
