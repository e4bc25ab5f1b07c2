"""Small files of a model folder: JSON objects, and errors that name the file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fusedlm.data.json_lines import is_unicode
from fusedlm.errors import CorruptFileError


def must_exist(file: Path) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")


def read_json(file: Path, *, optional: bool = False, kind: type = dict) -> Any:
    """A JSON object (or list, by `kind`) from a file; empty where an `optional` one is missing."""
    if optional and not file.is_file():
        return kind()
    must_exist(file)
    try:
        text = file.read_text(encoding="utf-8")
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError
        raise CorruptFileError(file, f"not valid JSON ({error})") from error
    if not is_unicode(text, values):
        raise CorruptFileError(file, "holds half of a surrogate pair, which is no text")
    if not isinstance(values, kind):
        expected = "an object" if kind is dict else "a list"
        raise CorruptFileError(file, f"holds a {type(values).__name__}, expected {expected}")
    return values


def write_json(file: str | os.PathLike[str], values: Any) -> None:
    """Writes an indented JSON file, whole or not at all."""
    write_text(file, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_text(file: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 file, whole or not at all."""
    with whole_file(file) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Of a full disk, or a file beyond a limit, the system does not say which file it was; this does."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or str(path) in str(error):
            raise
        raise OSError(error.errno, f"{path} was not written ({error.strerror})") from error


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a name to write to; on leaving, that file, flushed, takes the place of `path`, or none does.

    Of a link, what it points to is replaced. A pipe or a device cannot be: it is written to as it is.
    """
    if _written_directly(Path(path)):
        yield Path(path)
        return
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, expected a file or nothing", str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "its folder does not exist", str(path))
    partial = path.with_name(f".{path.name}.partial")
    try:
        with naming(path):
            yield partial
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _written_directly(path: Path) -> bool:
    """Of /dev/stdout, too, where it is a file, since the shell writes on into that."""
    special = path.exists() and not path.is_file() and not path.is_dir()
    return special or path.parent == Path("/dev")
