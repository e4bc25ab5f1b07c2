"""Rows into files: text, JSON lines, Parquet. A file appears when it is whole, or not at all."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ..large_file import large_file
from .inputs import parquet_package
from .lines import BROKEN
from .rows import Row

SUFFIXES = (".txt", ".jsonl", ".parquet")
_BATCH = 1024  # rows of a Parquet file that are turned into columns together


class Writer(Protocol):
    def write(self, row: Row) -> None: ...


def output_kind(out: Path) -> str:
    """ ".txt", ".jsonl" or ".parquet", .gz taken off; ValueError for another name."""
    name = out.name.lower()
    kind = os.path.splitext(name.removesuffix(".gz"))[1]
    if kind not in SUFFIXES or (kind == ".parquet" and name.endswith(".gz")):
        raise ValueError(
            f"{out}: expected a name that ends in .txt, .jsonl (either may end in .gz too) or .parquet"
        )
    if kind == ".parquet":
        parquet_package()
    return kind


def side_file(out: Path, ending: str) -> Path:
    """reviews.jsonl.gz -> reviews.report.json, beside it."""
    name = out.name.removesuffix(".gz").removesuffix(".GZ")
    return out.with_name(os.path.splitext(name)[0] + ending)


@contextlib.contextmanager
def writing(out: Path, field: str, one_a_line: bool) -> Iterator[Writer]:
    """A writer for the kind of file that the name says. If the block raises, nothing is there."""
    kind = output_kind(out)
    with large_file(out) as partial:
        rows = partial.with_name(partial.name + ".jsonl")  # what a Parquet file is made of
        try:
            with (
                open(rows if kind == ".parquet" else partial, "wb") as raw,
                _compressed(raw, out) as file,
            ):
                writer: Writer = (
                    TextWriter(file, one_a_line) if kind == ".txt" else JsonWriter(file, field)
                )
                yield writer
            if kind == ".parquet":
                assert isinstance(writer, JsonWriter)
                _write_parquet(rows, partial, writer.types)
        finally:
            rows.unlink(missing_ok=True)


@contextlib.contextmanager
def _compressed(raw: BinaryIO, out: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    if not out.name.lower().endswith(".gz"):
        yield raw
        return
    # Neither name nor time inside: equal texts make equal files.
    with gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
        yield file


class TextWriter:
    """One document a line, or documents with an empty line between; sentences each on a line."""

    def __init__(self, file: BinaryIO | gzip.GzipFile, one_a_line: bool) -> None:
        self._file, self._one_a_line = file, one_a_line
        self._any = False

    def write(self, row: Row) -> None:
        text = "\n".join(row.pieces) if row.pieces is not None else row.text
        if self._one_a_line and row.pieces is None:
            text = " ".join(text.split("\n"))
        elif self._any and not self._one_a_line:
            self._file.write(b"\n")
        self._file.write(text.encode() + b"\n")
        self._any = True


class JsonWriter:
    """A row as an object: its other fields as they came, the text, words and tags where asked for."""

    def __init__(self, file: BinaryIO | gzip.GzipFile, field: str) -> None:
        self._file, self._field = file, field
        self.types: dict[str, set[str]] = {}  # kinds of values that each field has

    def write(self, row: Row) -> None:
        for text in [row.text] if row.pieces is None else row.pieces:
            values = {**row.fields, self._field: text}
            if row.words is not None:
                values["words"] = row.words
            if row.tags is not None:
                values["tags"] = row.tags
            line = json.dumps(values, ensure_ascii=False, default=str)
            if BROKEN.search(line):  # half of a surrogate pair in another field or its name
                line = BROKEN.sub("\ufffd", line)
                values = json.loads(line)
            for name, value in values.items():
                self.types.setdefault(name, set()).add(_kind(value))
            self._file.write(line.encode() + b"\n")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        if -(2**53) <= value <= 2**53:
            return "int"
        return "wide" if -(2**63) <= value < 2**63 else "json"
    if isinstance(value, float):
        return "float"
    if value is None:
        return "none"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "strings"
    return "json" if isinstance(value, (list, dict)) else "string"


def _write_parquet(rows: Path, out: Path, types: dict[str, set[str]]) -> None:
    """The rows of a JSON lines file as columns. What has no one type becomes text in JSON."""
    import pyarrow
    import pyarrow.parquet

    columns = {"string": pyarrow.string(), "bool": pyarrow.bool_(), "int": pyarrow.int64()}
    columns |= {"float": pyarrow.float64(), "strings": pyarrow.list_(pyarrow.string())}
    chosen: dict[str, str] = {}
    for name, kinds in types.items():
        kinds = kinds - {"none"}
        if "wide" in kinds and "float" not in kinds:
            kinds = kinds - {"wide"} | {"int"}
        if kinds == {"int", "float"}:  # a float has each of these integers, but no wide one
            kinds = {"float"}
        kind = kinds.pop() if len(kinds) == 1 else "string" if not kinds else "json"
        chosen[name] = kind if kind in columns else "json"
    schema = pyarrow.schema(
        [(name, columns.get(kind, pyarrow.string())) for name, kind in chosen.items()]
    )

    def value(row: dict[str, Any], name: str) -> Any:
        found = row.get(name)
        as_json = chosen[name] == "json" and found is not None
        return json.dumps(found, ensure_ascii=False) if as_json else found

    with (
        open(rows, encoding="utf-8") as lines,
        pyarrow.parquet.ParquetWriter(out, schema, compression="zstd") as writer,
    ):
        batch: list[dict[str, Any]] = []
        for line in lines:
            row = json.loads(line)
            batch.append({name: value(row, name) for name in chosen})
            if len(batch) == _BATCH:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch = []
        if batch:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))
