"""Questions about texts, answered by a part of the text or by nothing in it: SQuAD's form (Rajpurkar et
al. 2018, arXiv:1806.03822)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .json_lines import parsed_text, read_objects
from .labelled import Skipped, sides


@dataclass(frozen=True)
class Question:
    """`answers` are (text, first character) of the answers that people gave, none where there is none."""

    id: str
    question: str
    context: str
    answers: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class Questions:
    """Questions in the order of the file, and what was left out."""

    rows: list[Question] = field(default_factory=list)
    skipped: Skipped = field(default_factory=Skipped)

    def __len__(self) -> int:
        return len(self.rows)

    def split(self, share: float) -> tuple[Questions, Questions]:
        """(the rest, those of about `share` of the texts): all questions about a text are on one side."""
        rest, part = sides((row.context for row in self.rows), share)
        return Questions([self.rows[i] for i in rest]), Questions([self.rows[i] for i in part])


def read_questions(path: str | os.PathLike[str]) -> Questions:
    """SQuAD's JSON (1.1 or 2.0), or JSON lines with "question", "context" and "answers".

    In JSON lines "answers" are {"text": [...], "answer_start": [...]}, as the hub has SQuAD, or a list
    of {"text": ..., "answer_start": ...}; without "answer_start" the first place where the text stands.
    What has no "id" goes by its place, as "file.jsonl:3".
    A question whose answer is not where it should be is left out and counted. Raises
    FileNotFoundError, and ValueError naming file and place for what has another form.
    """
    path = Path(path)
    found = Questions()
    seen: set[str] = set()
    lines = path.suffix.lower() in (".jsonl", ".ndjson")
    for values, context, place in _lines(path) if lines else _articles(path):
        question = _question(values, context, place)
        if question.id in seen:
            found.skipped.add("its id is there already", place)
            continue
        seen.add(question.id)
        wrong = [t for t, start in question.answers if not _stands(question.context, t, start)]
        if wrong:
            found.skipped.add("its answer is not where it should be in the text", place)
        elif not question.question.strip() or not question.context.strip():
            found.skipped.add("the question or the text is empty", place)
        else:
            found.rows.append(question)
    if not found.rows:
        why = "; ".join(found.skipped.lines()) or "it is empty"
        raise ValueError(f"{path} holds no question that can be used; {why}")
    return found


def _stands(context: str, text: str, start: int) -> bool:
    return bool(text) and start >= 0 and context.startswith(text, start)


def _articles(path: Path) -> Iterator[tuple[dict[str, Any], Any, str]]:
    """(question, context, where) of SQuAD's nested lists."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error})") from None
    whole = parsed_text(text, str(path))
    for a, article in enumerate(_list(whole, "data", str(path))):
        for p, paragraph in enumerate(_list(article, "paragraphs", f"{path}: data[{a}]")):
            place = f"{path}: data[{a}].paragraphs[{p}]"
            for q, values in enumerate(_list(paragraph, "qas", place)):
                if not isinstance(values, dict):
                    raise ValueError(f"{place}.qas[{q}] is {values!r}, expected an object")
                yield values, paragraph.get("context"), f"{place}.qas[{q}]"


def _lines(path: Path) -> Iterator[tuple[dict[str, Any], Any, str]]:
    for values, place in read_objects(path):
        yield values, values.get("context"), place


def _list(values: Any, name: str, place: str) -> list[Any]:
    if not isinstance(values, dict) or not isinstance(values.get(name), list):
        raise ValueError(f"{place}: expected an object with a list {name!r}, as SQuAD's files have")
    found: list[Any] = values[name]
    return found


def _question(values: dict[str, Any], context: Any, place: str) -> Question:
    for name, value in (("question", values.get("question")), ("context", context)):
        if not isinstance(value, str):
            raise ValueError(f"{place}: {name} is {value!r}, expected a string")
    answers = [] if values.get("is_impossible") else values.get("answers") or []
    if isinstance(answers, dict):
        answers = _columns(answers, place)
    if not isinstance(answers, list):
        raise ValueError(f"{place}: answers is {answers!r}, expected a list")
    given = values.get("id")
    identity = place if given is None else str(given)
    return Question(
        identity, values["question"], context, [_answer(a, context, place) for a in answers]
    )


def _columns(answers: dict[str, Any], place: str) -> list[dict[str, Any]]:
    texts, starts = answers.get("text"), answers.get("answer_start")
    if not isinstance(texts, list) or (starts is not None and (
        not isinstance(starts, list) or len(starts) != len(texts)
    )):  # fmt: skip
        raise ValueError(f"{place}: answers is {answers!r}, expected as many starts as texts")
    if starts is None:
        return [{"text": text} for text in texts]
    return [{"text": t, "answer_start": s} for t, s in zip(texts, starts, strict=True)]


def _answer(answer: Any, context: str, place: str) -> tuple[str, int]:
    text = answer.get("text") if isinstance(answer, dict) else None
    if not isinstance(text, str):
        raise ValueError(
            f"{place}: an answer is {answer!r}, expected an object with a string 'text'"
        )
    start = answer.get("answer_start", context.find(text))
    if not isinstance(start, int) or isinstance(start, bool):
        raise ValueError(f"{place}: answer_start is {start!r}, expected a number")
    return text, start
