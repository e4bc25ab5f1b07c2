"""Rows of CSV and TSV, of which a stray quote costs one line."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

# Single open quotes make it read every line about twice; only where each row opens one that takes in all
# that follows would the time grow with the square of the file.
_MOST_REREAD = 10


class CsvRows:
    """The rows of CSV, each a list of fields, or what is wrong with its quotes; `line` is where it begins.

    An open quote takes in every line up to the next quote. Where that one ends no field, or none comes, the
    line with the open quote alone is given up and reading goes on behind it. Tabs need no quotes, and
    quotes in a file of tabs are text.
    """

    def __init__(self, path: Path, file: TextIO, tabs: bool) -> None:
        self.line = 1
        self._path, self._file, self._tabs = path, file, tabs
        self._read = self._reread = 0  # lines
        self._again: deque[str] = deque()  # lines that a row had taken in
        self._taken: list[str] = []  # by the row that is being read
        self._reader = self._new_reader()

    def __iter__(self) -> CsvRows:
        return self

    def __next__(self) -> list[str] | csv.Error:
        self.line += len(self._taken)
        self._taken.clear()
        try:
            row = next(self._reader)
        except csv.Error as error:
            self._again.extendleft(reversed(self._taken[1:]))
            self._reread += len(self._taken) - 1
            if self._reread > _MOST_REREAD * self._read:
                raise ValueError(f"{self._path}: line {self.line} is not CSV ({error})") from None
            del self._taken[1:]
            self._reader = self._new_reader()
            return error
        return row

    def _new_reader(self) -> Iterator[list[str]]:
        if self._tabs:
            return csv.reader(self._lines(), delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        return csv.reader(self._lines(), strict=True)

    def _lines(self) -> Iterator[str]:
        while True:
            again = bool(self._again)
            line = self._again.popleft() if again else self._file.readline()
            if not line:
                return
            self._read += not again
            self._taken.append(line)
            yield line
