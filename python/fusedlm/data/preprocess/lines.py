"""Text out of bytes, line by line, with a bound on the length of one."""

from __future__ import annotations

import codecs
import gzip
import io
import re
from collections.abc import Iterator
from typing import TextIO

# What stands where bytes were that are none of the encoding's: no text has it otherwise.
_MARK = "\udcff"
BROKEN = re.compile("[\ud800-\udfff]+")
_HANDLER = "fusedlm.mark"


def _marked(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return _MARK, error.end


codecs.register_error(_HANDLER, _marked)


def check_encoding(name: str) -> str:
    """`name`, if Python knows a text encoding of that name; ValueError if not."""
    try:
        "a".encode(name)
    except (LookupError, UnicodeError):  # Python has one named "undefined"
        raise ValueError(
            f"encoding is {name!r}, expected one such as utf-8, gb18030, cp1252"
        ) from None
    return name


def open_text(
    raw: io.BufferedReader, name: str, encoding: str, newline: str | None
) -> io.TextIOWrapper:
    """The text of a file, unpacked where its name ends in .gz; a byte order mark has its say."""
    data: gzip.GzipFile | io.BufferedReader = (
        gzip.GzipFile(fileobj=raw) if name.lower().endswith(".gz") else raw
    )
    start = data.peek(2)[:2]
    if codecs.lookup(encoding).name == "utf-8":
        encoding = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    return io.TextIOWrapper(data, encoding, _HANDLER, newline)


def bounded_lines(stream: TextIO, limit: int) -> Iterator[tuple[str, bool]]:
    """(line, whether its end was cut off because it is longer than `limit`)."""
    while line := stream.readline(limit + 1):
        cut = len(line) > limit and line[-1] != "\n"
        rest = line
        while cut and rest and rest[-1] != "\n":
            rest = stream.readline(1 << 16)
        yield line, cut
