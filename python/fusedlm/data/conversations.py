"""Conversations from files: chatterbot-corpus YAML, and the JSON of OpenAI, ShareGPT and Alpaca.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}
    {"instruction": "...", "input": "...", "output": "..."}

Rows of a .jsonl file or of a list in a .json file; each row may be of another kind.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .json_lines import parsed
from .labelled import Skipped, is_text

Message = dict[str, str]
Conversation = list[Message]

SUFFIXES = (".jsonl", ".json", ".yml", ".yaml")
# What ShareGPT files call the one who speaks.
_SHAREGPT = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bard": "assistant", "bing": "assistant", "system": "system",
}  # fmt: skip
_ROLES = ("system", "developer", "user", "assistant")


class BadRow(ValueError):
    """A row that cannot be used; the text says why, the same for all rows of that fault."""


def read_conversations(
    source: str | os.PathLike[str], skipped: Skipped | None = None
) -> list[Conversation]:
    """The conversations of a file, of all files of a folder, or of the installed "chatterbot" corpus.

    "chatterbot" is its English part; "chatterbot:chinese" names another. What a model cannot learn an
    answer from is left out and counted in `skipped`. A last question without an answer is dropped.
    Raises FileNotFoundError, and ValueError where nothing is left, with the reasons.
    """
    return [messages for messages, _ in read_placed(source, skipped)]


def read_placed(
    source: str | os.PathLike[str], skipped: Skipped | None = None
) -> list[tuple[Conversation, str]]:
    """`read_conversations`, and where each of them stands."""
    skipped = Skipped() if skipped is None else skipped
    found = []
    for row, where in read_rows(source, skipped):
        try:
            found.append((checked(_messages(row)), where))
        except BadRow as error:
            skipped.add(str(error), where)
    if not found:
        raise ValueError(
            "; ".join([f"{source} holds no conversation to learn from", *skipped.lines()])
        )
    return found


def read_rows(source: str | os.PathLike[str], skipped: Skipped) -> Iterator[tuple[Any, str]]:
    """Every row of the files of `source`, and where it stands."""
    for file in _files(source):
        suffix = file.suffix.lower()
        try:
            text = file.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from None
        if suffix == ".jsonl":
            yield from _lines(file, text, skipped)
        elif suffix == ".json":
            yield from _list(file, text)
        else:
            yield from _chatterbot(file, text)


def split_by_question(
    conversations: Sequence[Conversation], share: float
) -> tuple[list[Conversation], list[Conversation]]:
    """(to train on, held out): about `share` of the first questions, with all their answers.

    Which ones, their hash alone says: the same ones whatever else is in the data.
    Raises ValueError where one of the two would be empty.
    """
    if not 0 < share < 1:
        raise ValueError(f"validation is {share}, expected a number between 0 and 1")
    keys = [_question_hash(c) for c in conversations]
    order = sorted(set(keys))
    if len(order) < 2:
        raise ValueError(
            f"the data has {len(order)} different first question, too few to hold some out"
        )
    held = set(order[: min(len(order) - 1, max(1, round(share * len(order))))])
    train = [c for c, key in zip(conversations, keys, strict=True) if key not in held]
    return train, [c for c, key in zip(conversations, keys, strict=True) if key in held]


def _question_hash(conversation: Conversation) -> str:
    question = next(m["content"] for m in conversation if m["role"] != "system")
    return hashlib.sha256(" ".join(question.lower().split()).encode()).hexdigest()


def checked(messages: Any) -> Conversation:
    """Messages with a role and a text each and at least one answer, none empty; BadRow else."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise BadRow("messages is no list of role and content")
    found: Conversation = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role not in _ROLES:
            raise BadRow(f"role {role!r}, expected {', '.join(_ROLES)}")
        if not isinstance(content, str) or not is_text(content):
            raise BadRow("a content that is no text")
        role = "system" if role == "developer" else role
        if role == "system" and found:
            raise BadRow("a system message after the beginning")
        if role != "system" and not content.strip():
            raise BadRow("an empty answer" if role == "assistant" else "an empty question")
        found.append({"role": role, "content": content})
    while found and found[-1]["role"] != "assistant":
        found.pop()
    if not found:
        raise BadRow("no answer of the assistant")
    return found


def _messages(row: Any) -> Any:
    if isinstance(row, list):  # chatterbot: question and answer in turn
        if not all(isinstance(text, str) for text in row):
            raise BadRow("a sentence that is no text")
        return [
            {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(row)
        ]
    if not isinstance(row, dict):
        raise BadRow("a row that is no object")
    if "messages" in row:
        return row["messages"]
    if "conversations" in row:
        turns = row["conversations"]
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise BadRow("conversations is no list of from and value")
        return [
            {"role": _SHAREGPT.get(str(t.get("from")), t.get("from")), "content": t.get("value")}
            for t in turns
        ]
    if "instruction" in row and "output" in row:
        asked, extra = row["instruction"], row.get("input") or ""
        if not isinstance(asked, str) or not isinstance(extra, str):
            raise BadRow("an instruction that is no text")
        asked = f"{asked}\n\n{extra}" if extra.strip() else asked
        return [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": row["output"]},
        ]
    raise BadRow("neither messages, conversations nor instruction and output")


def _files(source: str | os.PathLike[str]) -> list[Path]:
    path = Path(source)
    name, _, part = str(source).partition(":")
    if not path.exists() and name == "chatterbot":
        path = _installed_corpus(part or "english")
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
        if not files:
            raise FileNotFoundError(f"{path} holds no {', '.join(SUFFIXES)} file")
        return files
    if not path.is_file():
        raise FileNotFoundError(f"{source} is neither a file or folder nor chatterbot")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected a {', '.join(SUFFIXES)} file")
    return [path]


def _installed_corpus(part: str) -> Path:
    found = importlib.util.find_spec("chatterbot_corpus")
    if found is None or found.origin is None:
        raise FileNotFoundError(
            "the chatterbot corpus is not installed: pip install --no-deps chatterbot-corpus"
        )
    folder = Path(found.origin).parent / "data"
    if not (folder / part).is_dir():
        known = ", ".join(sorted(f.name for f in folder.iterdir() if f.is_dir()))
        raise FileNotFoundError(f"the chatterbot corpus has no {part!r}, only {known}")
    return folder / part


def _lines(file: Path, text: str, skipped: Skipped) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parsed(line)
        except ValueError:
            skipped.add("a line that is not JSON", f"{file}:{number}")
        else:
            yield row, f"{file}:{number}"


def _list(file: Path, text: str) -> Iterator[tuple[Any, str]]:
    try:
        rows = parsed(text)
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise ValueError(f"{file} holds a {type(rows).__name__}, expected a list of rows")
    for number, row in enumerate(rows):
        yield row, f"{file}, row {number}"


def _chatterbot(file: Path, text: str) -> Iterator[tuple[Any, str]]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        values = yaml.load(text, Loader=loader)
    # Of a date like 2001-99-99 or an empty `!!int` the parser raises what its conversion did.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    rows = values.get("conversations") if isinstance(values, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"{file} has no list named conversations")
    for number, row in enumerate(rows):
        yield row, f"{file}, conversation {number}"
