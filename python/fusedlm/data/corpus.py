"""Where training text comes from: a corpus that ships with the package, a file or a folder."""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER = Path(__file__).parent / "corpora"
CORPORA = tuple(sorted(file.stem for file in _FOLDER.glob("*.txt")))
SUFFIXES = (".txt", ".md")


def load_corpus(name_or_path: str | os.PathLike[str]) -> str:
    """The text of a shipped corpus (`CORPORA`), of a UTF-8 file, or of all .txt and .md files of a
    folder, in the order of their names with an empty line between.

    A file or folder of that name comes first. Raises FileNotFoundError, and ValueError for a text
    that is empty or not UTF-8, naming the file.
    """
    path = Path(name_or_path)
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
        if not files:
            raise FileNotFoundError(f"{path} holds no {' or '.join(SUFFIXES)} file")
        text = "\n\n".join(_read(file) for file in files)
    elif path.is_file():
        text = _read(path)
    elif str(name_or_path) in CORPORA:
        text = _read(_FOLDER / f"{name_or_path}.txt")
    else:
        raise FileNotFoundError(
            f"{name_or_path} is neither a file or folder nor a shipped corpus ({', '.join(CORPORA)})"
        )
    if not text.strip():
        raise ValueError(f"{name_or_path} holds no text")
    return text


def _read(file: Path) -> str:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start};"
            " convert it first, for example with iconv"
        ) from None
    return text.replace("\r\n", "\n")
