from __future__ import annotations

import random
from collections import Counter

from fusedlm.data.preprocess import Statistics
from fusedlm.data.preprocess.statistics import Lengths, Vocabulary


def test_statistics_equal_those_counted_by_hand():
    statistics = Statistics()
    for text in ("The cat, the dog!", "春眠 the", "x"):
        statistics.add(text)
    values = statistics.as_json()
    assert values["documents"] == 3
    assert values["words"]["total"] == 8 and values["words"]["median"] == 3
    assert (values["characters"]["shortest"], values["characters"]["longest"]) == (1, 17)
    assert values["most_frequent_words"]["the"] == 3
    assert values["distinct_words"] == 6 and values["distinct_words_are"] == "counted"
    assert values["scripts"] == {"Latin": 3}
    assert sum(count for _, count in values["words"]["histogram"]) == 3


def test_lengths_keep_three_digits_and_the_extremes():
    lengths = Lengths()
    for value in (1, 2, 999, 123_456):
        lengths.add(value)
    values = lengths.as_json()
    assert values["longest"] == 123_456 and values["total"] == 124_458
    assert values["percentile_95"] == 123_000
    assert values["histogram"] == [(1, 1), (2, 1), (896, 1), (114_688, 1)]


def test_a_bounded_vocabulary_keeps_frequent_words_and_estimates_the_number_of_all():
    draw = random.Random(1)
    words = [f"w{int(draw.paretovariate(0.25))}" for _ in range(200_000)]
    exact = Counter(words)
    bounded = Vocabulary(limit=10_000)
    for start in range(0, len(words), 500):
        bounded.add(words[start : start + 500])
        assert len(bounded._counts) <= 10_500
    assert bounded.pruned and len(exact) > 20_000
    assert abs(bounded.distinct() / len(exact) - 1) < 0.05
    top = exact.most_common(20)
    assert [c for _, c in bounded.most_frequent(20)] == [c for _, c in top]


def test_zipf_points_are_ranks_and_counts():
    vocabulary = Vocabulary()
    vocabulary.add(["a"] * 4 + ["b"] * 2 + ["c"])
    assert vocabulary.zipf() == [(1, 4), (2, 2), (3, 1)]
