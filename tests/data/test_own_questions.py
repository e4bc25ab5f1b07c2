"""The project's own questions (examples/questions) are what its README says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusedlm.data import read_questions

FOLDER = Path(__file__).parents[2] / "examples" / "questions"
FILES = ("train", "dev")


def paragraphs(name):
    whole = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return [paragraph for article in whole["data"] for paragraph in article["paragraphs"]]


def questions(name):
    return [(p["context"], question) for p in paragraphs(name) for question in p["qas"]]


def splits_a_word(context, at):
    """Chinese has no spaces: any place will do there."""
    return 0 < at < len(context) and all(
        c.isalnum() and c < "\u3000" for c in context[at - 1 : at + 1]
    )


@pytest.mark.parametrize("name", FILES)
def test_every_answer_is_a_run_of_whole_words_where_it_says(name):
    for context, question in questions(name):
        for answer in question["answers"]:
            text, start = answer["text"], answer["answer_start"]
            end = start + len(text)
            assert text and context[start:end] == text, question["id"]
            assert not splits_a_word(context, start), question["id"]
            assert not splits_a_word(context, end), question["id"]


@pytest.mark.parametrize("name", FILES)
def test_only_the_unanswerable_have_no_answer(name):
    for _, question in questions(name):
        assert question["is_impossible"] is (question["answers"] == []), question["id"]


@pytest.mark.parametrize("name", FILES)
def test_the_answers_to_a_question_differ(name):
    for _, question in questions(name):
        texts = [answer["text"] for answer in question["answers"]]
        assert len(set(texts)) == len(texts), question["id"]


def test_ids_are_unique_over_both_files_and_name_theirs():
    ids = [(question["id"], name) for name in FILES for _, question in questions(name)]
    assert len({identity for identity, _ in ids}) == len(ids)
    assert all(identity.startswith(f"{name}-") for identity, name in ids)


def test_no_text_and_no_question_is_in_both_files():
    texts = [{p["context"] for p in paragraphs(name)} for name in FILES]
    asked = [{question["question"] for _, question in questions(name)} for name in FILES]
    assert not texts[0] & texts[1] and not asked[0] & asked[1]
    assert [len(t) for t in texts] == [len(paragraphs(name)) for name in FILES]


@pytest.mark.parametrize("name", FILES)
def test_the_reader_takes_every_question(name):
    found = read_questions(FOLDER / f"{name}.json")
    assert len(found) == len(questions(name)) and not found.skipped.counts
