"""JSON, and the objects of a .jsonl file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .labelled import Skipped


def read_objects(
    path: str | os.PathLike[str], skipped: Skipped | None = None
) -> Iterator[tuple[dict[str, Any], str]]:
    """(object, "file:line") one at a time; empty lines are passed over.

    What is no JSON object is counted in `skipped`; without it every line has to be right. Raises
    FileNotFoundError, and then ValueError naming file and line.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    with open(file, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = f"{file}:{number}"
            try:
                values = _object(line, place)
            except ValueError:
                if skipped is None:
                    raise
                skipped.add("not a JSON object", place)
            else:
                yield values, place


def parsed(text: str) -> Any:
    """What JSON makes of `text`; ValueError for what is none, or is nested too deeply for Python."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def parsed_text(text: str, place: str) -> Any:
    """`parsed`, for what is to be UTF-8 again; the ValueError names `place`."""
    try:
        values = parsed(text)
    except ValueError as error:
        raise ValueError(f"{place}: not JSON ({error})") from None
    if not is_unicode(text, values):
        raise ValueError(
            f"{place}: holds half of a surrogate pair (\\ud800 to \\udfff), which is no text"
        )
    return values


def is_unicode(source: str, values: Any) -> bool:
    """Whether what JSON made of `source` can be written as UTF-8: an escape may be half a character."""
    if "\\ud" not in source and "\\uD" not in source:
        return True
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(line: str, place: str) -> dict[str, Any]:
    if any("\udc80" <= character <= "\udcff" for character in line):
        raise ValueError(f"{place}: not UTF-8")
    values = parsed_text(line, place)
    if not isinstance(values, dict):
        raise ValueError(f"{place}: holds a {type(values).__name__}, expected an object")
    return values
