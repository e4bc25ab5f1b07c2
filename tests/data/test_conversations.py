"""Conversations of four kinds become the same messages, and what is broken is counted."""

from __future__ import annotations

import json

import pytest

from fusedlm.data import read_conversations, split_by_question
from fusedlm.data.labelled import Skipped
from tests.support.real_data import dialogues_folder

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TALK},
        {"messages": [*TALK, {"role": "user", "content": "no answer follows"}]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"instruction": "Hi", "input": "", "output": "Hello"},
    ],
)
def test_rows_of_every_kind_are_read(tmp_path, row):
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n\n")
    (tmp_path / "b.json").write_text(json.dumps([row]))
    assert read_conversations(tmp_path) == [TALK, TALK]


def test_chatterbots_yaml_is_read(tmp_path):
    (tmp_path / "a.yml").write_text("categories: [x]\nconversations:\n- [Hi, Hello]\n- [alone]\n")
    skipped = Skipped()
    assert read_conversations(tmp_path / "a.yml", skipped) == [TALK]
    assert skipped.counts == {"no answer of the assistant": 1}


def test_alpacas_input_follows_the_instruction(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"instruction": "Add", "input": "1 2", "output": "3"}))
    assert read_conversations(file)[0][0]["content"] == "Add\n\n1 2"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "a line that is not JSON"),
        ("7", "a row that is no object"),
        ("{}", "neither messages, conversations nor instruction"),
        ('{"messages": 3}', "no list of role and content"),
        ('{"messages": [{"role": "cat", "content": ""}]}', "role 'cat'"),
        ('{"conversations": [{"from": "tool", "value": ""}]}', "role 'tool'"),
        ('{"instruction": "x", "output": " "}', "an empty answer"),
        ('{"instruction": "x", "output": 1}', "a content that is no text"),
    ],
)
def test_a_bad_row_is_counted_with_its_place(tmp_path, line, reason):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"messages": TALK}) + "\n" + line + "\n")
    skipped = Skipped()
    assert read_conversations(file, skipped) == [TALK]
    (found,) = skipped.first
    assert reason in found and skipped.first[found].endswith("a.jsonl:2")


@pytest.mark.parametrize(
    "value", ["2001-99-99", "!!int ''", "!!bool x", "!!timestamp x", "!!float x", "[a"]
)
def test_a_value_that_yaml_cannot_make_is_an_error_that_names_the_file(tmp_path, value):
    (tmp_path / "a.yml").write_text(f"conversations:\n- [Hi, Hello]\n- {value}\n")
    with pytest.raises(ValueError, match=r"a\.yml is not YAML: "):
        read_conversations(tmp_path / "a.yml")


def test_all_answers_to_a_question_are_on_one_side():
    talks = [
        [{"role": "user", "content": f"Q{i % 10}"}, {"role": "assistant", "content": f"A{i}"}]
        for i in range(30)
    ]
    train, held = split_by_question(talks, 0.2)
    questions = [{talk[0]["content"] for talk in part} for part in (train, held)]
    assert len(held) == 6 and not questions[0] & questions[1]
    with pytest.raises(ValueError, match="1 different first question"):
        split_by_question(talks[:1], 0.2)


def test_the_installed_corpus_is_found_by_its_name():
    dialogues_folder("english")  # or the test skips
    assert len(read_conversations("chatterbot")) > 1500
    with pytest.raises(FileNotFoundError, match="has no 'klingon'"):
        read_conversations("chatterbot:klingon")
