"""Tagged words from CoNLL files: one word a line with its tag, an empty line after each sentence."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .labelled import Skipped, is_text, refuse_utf16_file, sides

SUFFIXES = (".conll", ".bio", ".iob", ".iob2")
_TAG = re.compile(r"O|[BIESLU]-\S+")


@dataclass
class Tagged:
    """Sentences as words, the tag of each word, what was left out, and where each sentence begins.

    Without `places`, that is its number from 1.
    """

    sentences: list[list[str]] = field(default_factory=list)
    tags: list[list[str]] = field(default_factory=list)
    skipped: Skipped = field(default_factory=Skipped)
    places: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sentences)

    def as_texts(self) -> list[str]:
        """What a tokenizer is trained on."""
        return [" ".join(words) for words in self.sentences]

    def part(self, numbers: list[int]) -> Tagged:
        """The sentences of these numbers, in this order."""
        return Tagged(
            [self.sentences[i] for i in numbers], [self.tags[i] for i in numbers],
            places=[self.place(i) for i in numbers],
        )  # fmt: skip

    def place(self, number: int) -> str:
        """Where sentence `number` begins: "train.conll:12"."""
        return self.places[number] if self.places else f"sentence {number + 1}"

    def split(self, share: float, salt: str) -> tuple[Tagged, Tagged]:
        """(the rest, `share` of the sentences), by a hash of each: equal ones are on one side."""
        rest, part = sides((salt + " ".join(words) for words in self.sentences), share)
        return self.part(rest), self.part(part)


def read_tagged(path: str | os.PathLike[str], *, word: int = 0, tag: int = -1) -> Tagged:
    """Words and tags from columns `word` and `tag` of a file in CoNLL's form; -1 is the last column.

    Columns are separated by tabs or else spaces; tags are O, B-..., I-... (or IOBES, BILOU). Lines
    that begin with -DOCSTART- or are comments are no words. A sentence in which a line has no tag or
    is no UTF-8 is left out and counted. Raises FileNotFoundError, and ValueError naming the file
    where no sentence is left.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    data = Tagged()
    for place, lines in _sentences(path, tag):
        rows = [_columns(line) for line in lines]
        reason = _reason(lines, rows, word, tag)
        if reason is not None:
            data.skipped.add(reason, place)
            continue
        data.sentences.append([row[word].strip() for row in rows])
        data.tags.append([row[tag].strip() for row in rows])
        data.places.append(place)
    if not data.sentences:
        found = "; ".join(data.skipped.lines()) or "it is empty"
        raise ValueError(f"{path} holds no tagged sentence; {found}")
    return data


def _columns(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else line.split()


def _is_tagged(row: list[str], tag: int) -> bool:
    return -len(row) <= tag < len(row) and _TAG.fullmatch(row[tag].strip()) is not None


def _sentences(path: Path, tag: int) -> Iterator[tuple[str, list[str]]]:
    """(where it begins, its lines) of every sentence."""
    lines: list[str] = []
    first = 1
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        refuse_utf16_file(file, path)
        for number, line in enumerate((*file, ""), 1):
            line = line.rstrip("\n")
            blank = not line.strip() or line.startswith("-DOCSTART-")
            if blank and lines:
                yield f"{path.name}:{first}", lines
                lines = []
            comment = line.startswith("#") and not _is_tagged(_columns(line), tag)
            if blank or comment:
                continue
            if not lines:
                first = number
            lines.append(line)


def _reason(lines: list[str], rows: list[list[str]], word: int, tag: int) -> str | None:
    if not all(map(is_text, lines)):
        return "not UTF-8"
    needed = max(n + 1 if n >= 0 else -n for n in (word, tag))
    # In a row of one column, say, the first is the last.
    if any(len(row) < needed or (word - tag) % len(row) == 0 for row in rows):
        return "a word without a tag"
    if any(not _is_tagged(row, tag) for row in rows):
        return "a tag that is neither O nor like B-..."
    return "an empty word" if any(not row[word].strip() for row in rows) else None


def keep_known_tags(data: Tagged, names: list[str]) -> Tagged:
    """Without sentences that have a tag which training has not seen; they are counted."""
    known = set(names)
    unknown = [sorted(set(tags) - known) for tags in data.tags]
    kept = data.part([i for i, new in enumerate(unknown) if not new])
    kept.skipped = data.skipped
    for number, new in enumerate(unknown):
        if new:
            kept.skipped.add(f"no word to train on has the tag {new[0]!r}", data.place(number))
    return kept


def tag_names(tags: list[list[str]]) -> list[str]:
    """The tags that occur, O first. ValueError where there is no entity."""
    names = sorted({tag for row in tags for tag in row} - {"O"})
    if not names:
        raise ValueError("all words to train on have the tag 'O', expected entities like B-PER")
    return ["O", *names]
