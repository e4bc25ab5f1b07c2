"""Rows out of files: text, JSON lines, CSV, TSV, Parquet, folders of these; one row at a time.

What cannot be used comes out as a `Bad`, and reading goes on.
"""

from __future__ import annotations

import csv
import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from ..json_lines import parsed
from .lines import BROKEN, bounded_lines, open_text
from .optional import needed
from .rows import Bad, Row

TEXT = (".txt", ".md")
SUFFIXES = (*TEXT, ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
SPLITS = ("line", "paragraph", "file")


@dataclass(frozen=True)
class ReadSettings:
    """What a document is; the fields are options of `fusedlm preprocess`."""

    field: str = "text"
    split: str = "line"
    separator: str | None = None
    encoding: str = "utf-8"
    broken: str = "drop"
    delimiter: str = ","
    folder_label: bool = False
    max_chars: int = 1_000_000


def kind_of(file: Path) -> str:
    """The suffix that says how to read a file, .gz taken off; ".txt" where it says nothing."""
    name = file.name.lower().removesuffix(".gz")
    suffix = os.path.splitext(name)[1]
    return suffix if suffix in SUFFIXES else ".txt"


def find_files(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files, and those of the folders that have a suffix of ours, in the order of their names."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = [f for f in sorted(path.rglob("*")) if _readable(f.name) and f.is_file()]
            if not found:
                raise FileNotFoundError(f"{path} holds no file that ends in {', '.join(SUFFIXES)}")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"{path} does not exist")
    if any(kind_of(file) == ".parquet" for file in files):
        parquet_package()  # if it is missing, that shows now and not at the last file
    return files


def size_of(file: Path) -> int:
    """In bytes; 0 for a file that has gone since it was listed, which reading it will tell."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def shown(name: str | os.PathLike[str]) -> str:
    """The name of a file or a column as UTF-8 can write it, which names need not be."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def _readable(name: str) -> bool:
    return not name.startswith(".") and name.lower().removesuffix(".gz").endswith(SUFFIXES)


def read_rows(
    files: Sequence[Path], settings: ReadSettings, progress: Callable[[int], None] | None = None
) -> Iterator[Row | Bad]:
    """All rows, file after file. progress(n) is told that n more bytes were read from the disk."""
    for file in files:
        done, size = 0, size_of(file)
        try:
            with open(file, "rb") as raw:
                for number, item in enumerate(_rows_of(file, raw, settings)):
                    yield item
                    if progress is not None and number % 64 == 0:
                        now = raw.tell() if not raw.closed else done
                        progress(now - done)
                        done = now
        except (OSError, EOFError, zlib.error) as error:  # a bad disk, a gz file cut short
            yield Bad(shown(file), 0, "unreadable file", f"reading it failed: {error}")
        if progress is not None:
            progress(size - done)


def _rows_of(file: Path, raw: io.BufferedReader, settings: ReadSettings) -> Iterator[Row | Bad]:
    for item in _items_of(file, raw, settings):
        if isinstance(item, Row):
            if settings.folder_label:
                item.fields["label"] = file.parent.name
            item = _checked(item, settings)
        yield item


def _items_of(file: Path, raw: io.BufferedReader, settings: ReadSettings) -> Iterator[Row | Bad]:
    kind, name = kind_of(file), shown(file)
    if kind == ".parquet":
        yield from _parquet(raw, name, settings)
        return
    table = kind in (".csv", ".tsv")  # whose reader wants to see line ends as they are
    with open_text(raw, file.name, settings.encoding, "" if table else None) as stream:
        if table:
            yield from _table(stream, name, settings, kind == ".tsv")
        elif kind in TEXT:
            yield from _texts(stream, name, settings)
        else:
            yield from _json_lines(stream, name, settings)


def _checked(row: Row, settings: ReadSettings) -> Row | Bad:
    place = (row.file, row.line)
    text: object = row.text  # what a reader found there
    if not isinstance(text, str):
        what = f"field {settings.field!r} is a {type(text).__name__}, expected text"
        return Bad(*place, "not text", what)
    if len(row.text) > settings.max_chars:
        return Bad(*place, "too long", f"more than {settings.max_chars:,} characters (--max-chars)")
    if not row.text.isascii() and BROKEN.search(row.text):
        if settings.broken == "drop":
            return Bad(*place, "broken encoding", f"bytes that are not {settings.encoding}")
        row.text = BROKEN.sub("\ufffd", row.text)
        row.fields = {name: _mended(value) for name, value in row.fields.items()}
    return row if row.text and not row.text.isspace() else Bad(*place, "empty", "no text")


def _mended(value: Any) -> Any:
    return BROKEN.sub("\ufffd", value) if isinstance(value, str) else value


class _Document:
    """Lines that become one row. Of a document that is too long only its length is kept."""

    def __init__(self, file: str, settings: ReadSettings) -> None:
        self._file, self._settings = file, settings
        self._begin()

    def _begin(self) -> None:
        self._lines: list[str] = []
        self._size = self._first = 0

    def add(self, line: str, number: int) -> None:
        self._first = self._first or number
        self._size += len(line)
        if self._too_long():
            self._lines.clear()
        else:
            self._lines.append(line)

    def take(self) -> Iterator[Row | Bad]:
        """The row, if there is one; the next begins."""
        text = "".join(self._lines).removesuffix("\n")
        if self._too_long():
            what = f"more than {self._settings.max_chars:,} characters (--max-chars)"
            yield Bad(self._file, self._first, "too long", what)
        elif (text and not text.isspace()) or self._settings.split == "file":
            yield Row(text, {}, self._file, self._first or 1)
        self._begin()

    def _too_long(self) -> bool:
        return self._size > self._settings.max_chars + 1  # and the end of a line


def _texts(stream: TextIO, file: str, settings: ReadSettings) -> Iterator[Row | Bad]:
    """Documents of a text: lines, paragraphs, what stands between separators, or the whole file."""
    document = _Document(file, settings)
    for number, (line, _) in enumerate(bounded_lines(stream, settings.max_chars + 1), 1):
        if settings.separator is not None:
            between = line.rstrip("\n") == settings.separator
        else:
            between = settings.split == "paragraph" and line.isspace()
        if not between:
            document.add(line, number)
        if between or (settings.split == "line" and settings.separator is None):
            yield from document.take()
    yield from document.take()


def _json_lines(stream: TextIO, file: str, settings: ReadSettings) -> Iterator[Row | Bad]:
    limit = 8 * settings.max_chars  # escapes and other fields need room
    for number, (line, cut) in enumerate(bounded_lines(stream, limit), 1):
        place = (file, number)
        if cut:
            yield Bad(*place, "too long", f"a line of more than {limit:,} characters (--max-chars)")
        elif not line.isspace():
            try:
                fields = parsed(line)
            except ValueError as error:
                yield Bad(*place, "not JSON", f"not JSON ({error})")
                continue
            if isinstance(fields, dict):
                yield _from_fields(fields, *place, settings.field)
            else:
                what = f"holds a {type(fields).__name__}, expected an object"
                yield Bad(*place, "not an object", what)


def _from_fields(fields: dict[str, Any], file: str, line: int, field: str) -> Row | Bad:
    if field not in fields:
        there = shown(", ".join(list(fields)[:8])) or "no field"
        return Bad(file, line, "missing field", f"has no field {field!r}, there are: {there}")
    if fields[field] is None:
        return Bad(file, line, "empty", "no text")
    return Row(fields[field], fields, file, line)


def _table(stream: TextIO, file: str, settings: ReadSettings, tabs: bool) -> Iterator[Row | Bad]:
    """CSV with a header. Broken quotes cost the rows up to where a new line begins a row again.

    Tabs need no quotes, and quotes in a .tsv are text.
    """
    cut_off = False

    def lines() -> Iterator[str]:
        nonlocal cut_off
        for line, cut in bounded_lines(stream, 8 * settings.max_chars):
            cut_off |= cut
            yield line

    rows = (
        csv.reader(lines(), delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        if tabs
        else csv.reader(lines(), delimiter=settings.delimiter, strict=True)
    )
    header: list[str] | None = None
    while True:
        place = (file, rows.line_num + 1)
        values = _next_values(rows, settings.max_chars)
        if values is None:
            return
        if isinstance(values, csv.Error) or cut_off:
            long = cut_off or "field larger" in str(values)
            what = f"more than {settings.max_chars:,} characters" if cut_off else str(values)
            yield Bad(*place, "too long" if long else "not CSV", f"not CSV ({what})")
            cut_off = False
        elif header is None and values:
            header = values
            if settings.field not in header or len(set(header)) < len(header):
                wanted = f"expected a header with {settings.field!r}, each name once"
                there = shown(", ".join(header)[:200])
                yield Bad(*place, "missing field", f"{wanted}; it is {there}")
                return
        elif values and header is not None and len(values) != len(header):
            what = f"{len(values)} fields, the header has {len(header)}"
            yield Bad(*place, "wrong number of fields", what)
        elif values and header is not None:
            yield _from_fields(dict(zip(header, values, strict=True)), *place, settings.field)


def _next_values(rows: Iterator[list[str]], longest: int) -> list[str] | csv.Error | None:
    """The next row, what is wrong with it, or None at the end."""
    before = csv.field_size_limit(longest)  # the module has one for all readers
    try:
        return next(rows, None)
    except csv.Error as error:
        return error
    finally:
        csv.field_size_limit(before)


def parquet_package() -> ModuleType:
    return needed("pyarrow.parquet", "Parquet", "parquet")


def _parquet(raw: io.BufferedReader, file: str, settings: ReadSettings) -> Iterator[Row | Bad]:
    arrow = needed("pyarrow", "Parquet", "parquet")
    try:
        with parquet_package().ParquetFile(raw, pre_buffer=False) as table:
            if settings.field not in table.schema_arrow.names:
                there = shown(", ".join(table.schema_arrow.names))
                what = f"has no field {settings.field!r}, there are: {there}"
                yield Bad(file, 0, "missing field", what)
                return
            number = 0
            for batch in table.iter_batches(batch_size=128, use_threads=False):
                for fields in batch.to_pylist():
                    number += 1
                    yield _from_fields(fields, file, number, settings.field)
    except (arrow.ArrowException, UnicodeDecodeError) as error:  # names and texts may be no UTF-8
        yield Bad(file, 0, "unreadable file", f"not Parquet ({error})")
