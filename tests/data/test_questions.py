"""Questions about texts out of files: SQuAD's nested form and JSON lines."""

from __future__ import annotations

import json

import pytest

from fusedlm.data import read_questions

CONTEXT = "Ada was born in London. Émile lives in Köln."


def squad(*qas, context=CONTEXT):
    return {
        "version": "v2.0",
        "data": [{"title": "t", "paragraphs": [{"context": context, "qas": [*qas]}]}],
    }


def written(path, value):
    lines = value if isinstance(value, str) else json.dumps(value)
    path.write_text(lines, encoding="utf-8")
    return path


def test_answers_and_their_places_are_read_and_a_question_without_one_has_none(tmp_path):
    file = written(tmp_path / "q.json", squad(
        {"id": "a", "question": "Where?", "answers": [
            {"text": "London", "answer_start": 16}, {"text": "Köln", "answer_start": 39},
        ], "is_impossible": False},
        {"id": "b", "question": "Who?", "answers": [], "is_impossible": True},
        {"id": "c", "question": "Who, plausibly?", "answers": [{"text": "Ada", "answer_start": 0}],
         "is_impossible": True},
        {"id": "d", "question": "As in 1.1?", "answers": [{"text": "Ada", "answer_start": 0}]},
    ))  # fmt: skip
    rows = read_questions(file).rows
    assert [row.id for row in rows] == ["a", "b", "c", "d"]
    assert rows[0].answers == [("London", 16), ("Köln", 39)] and rows[0].context == CONTEXT
    assert [row.answers for row in rows[1:]] == [[], [], [("Ada", 0)]]


def test_json_lines_hold_the_same_in_columns_or_as_a_list_and_may_leave_places_out(tmp_path):
    rows = [
        {
            "question": "1",
            "context": CONTEXT,
            "answers": {"text": ["London"], "answer_start": [16]},
        },
        {"question": "2", "context": CONTEXT, "answers": [{"text": "London"}]},
        {"question": "3", "context": CONTEXT, "answers": {"text": ["London"]}},
        {"question": "4", "context": CONTEXT, "answers": {"text": [], "answer_start": []}},
    ]
    file = written(tmp_path / "q.jsonl", "\n".join(map(json.dumps, rows)))
    found = read_questions(file).rows
    assert [row.answers for row in found] == [[("London", 16)]] * 3 + [[]]
    assert len({row.id for row in found}) == 4


def test_questions_without_an_id_go_by_their_place(tmp_path):
    rows = [
        {"id": "1", "question": "?", "context": CONTEXT},
        *({"id": None, "question": f"{i}", "context": CONTEXT} for i in range(2)),
        {"question": "no id at all", "context": CONTEXT},
        {"id": 0, "question": "?", "context": CONTEXT},
    ]
    file = written(tmp_path / "q.jsonl", "\n".join(map(json.dumps, rows)))
    found = read_questions(file)
    assert [row.id for row in found.rows] == ["1", *(f"{file}:{n}" for n in (2, 3, 4)), "0"]
    assert not found.skipped.counts


def test_what_cannot_be_learned_from_is_left_out_and_counted_with_its_place(tmp_path):
    def qa(name, text, start, question="?"):
        return {
            "id": name,
            "question": question,
            "answers": [{"text": text, "answer_start": start}],
        }

    file = written(tmp_path / "q.json", squad(
        qa("a", "Ada", 0), qa("b", "Ada", 1), qa("c", "Ada", -44), qa("d", "", 0), qa("a", "Ada", 0),
        qa("e", "Ada", 0, question=" "),
    ))  # fmt: skip
    found = read_questions(file)
    assert [row.id for row in found.rows] == ["a"]
    lines = found.skipped.lines()
    assert lines[0].startswith("3 left out: its answer is not where") and "qas[1]" in lines[0]
    assert "its id is there already" in lines[1] and "empty" in lines[2]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[1]", "expected an object with a list 'data'"),
        ("{", "not JSON"),
        ("[" * 10**5, "not JSON"),
        ('{"data": [], "by": "\\ud800"}', "holds half of a surrogate pair"),
        (squad(3), r"data\[0\].paragraphs\[0\].qas\[0\] is 3, expected an object"),
        (squad({"question": 3}), r"qas\[0\]: question is 3, expected a string"),
        (squad({"question": "?"}, context=None), "context is None, expected a string"),
        (squad({"question": "?", "answers": "Ada"}), "answers is 'Ada', expected a list"),
        (squad({"question": "?", "answers": ["Ada"]}), "expected an object with a string 'text'"),
        (
            squad({"question": "?", "answers": [{"text": "Ada", "answer_start": "0"}]}),
            "expected a number",
        ),
        (
            squad({"question": "?", "answers": {"text": ["Ada"], "answer_start": []}}),
            "as many starts",
        ),
        (squad(), "holds no question that can be used; it is empty"),
    ],
)
def test_another_form_is_an_error_that_names_the_file_and_the_place(tmp_path, value, expected):
    file = written(tmp_path / "q.json", value)
    with pytest.raises(ValueError, match=expected) as error:
        read_questions(file)
    assert str(file) in str(error.value)


def test_all_questions_about_a_text_are_on_one_side_of_a_split(tmp_path):
    rows = [{"question": f"{n}", "context": f"text {n % 40}", "answers": []} for n in range(200)]
    found = read_questions(written(tmp_path / "q.jsonl", "\n".join(map(json.dumps, rows))))
    rest, part = found.split(0.3)
    assert len(rest) + len(part) == 200 and 20 < len(part) < 110
    assert not {row.context for row in rest.rows} & {row.context for row in part.rows}
