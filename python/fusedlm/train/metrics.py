"""Metrics of a run, one JSON object a line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fusedlm.errors import CorruptFileError
from fusedlm.models.files import naming, write_text


class MetricsFile:
    """Appends to metrics.jsonl; every line is on its way to the disk when `add` returns.

    Going on after `step`, later lines of an interrupted run are dropped: they will come again.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        kept = [line for line in _lines(path) if line.get("step", 0) <= step] if step else []
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._path = path
        # Without a buffer: a line that did not fit on the disk is not tried again when it is closed.
        self._file = open(path, "ab", buffering=0)

    def add(self, **values: Any) -> None:
        line = (json.dumps(values) + "\n").encode()
        with naming(self._path):
            while line:
                line = line[self._file.write(line) :]

    def sync(self) -> None:
        """What a checkpoint has behind it must be on the disk when the checkpoint is."""
        with naming(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class NoMetrics:
    """In place of a MetricsFile, of ranks that write none."""

    def add(self, **values: Any) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl. Raises FileNotFoundError or CorruptFileError naming the file."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    return _lines(file)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    values = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CorruptFileError(path, f"not UTF-8 ({error})") from error
    for number, line in enumerate(lines, 1):
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):  # a run was cut off in the middle of its last line
                break
            raise CorruptFileError(path, f"line {number} is not JSON ({error})") from error
        if not isinstance(values[-1], dict):
            raise CorruptFileError(path, f"line {number} is no JSON object")
    return values
