"""Stop words: the words that say little of what a text is about."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "stop_words"
LISTS = tuple(sorted(file.stem for file in _FOLDER.glob("*.txt")))


def load_stop_words(names: str) -> frozenset[str]:
    """The words of one or more lists, as "en,zh,my_list.txt": shipped ones by name, own ones by path.

    A list has words in small letters, any number a line; what follows "#" is a comment.
    Raises FileNotFoundError, and ValueError for a list without words or not UTF-8.
    """
    words: set[str] = set()
    for name in filter(None, names.split(",")):
        file = _FOLDER / f"{name}.txt" if name in LISTS else Path(name)
        if not file.is_file():
            raise FileNotFoundError(
                f"stop words: {name} is neither a file nor one of {', '.join(LISTS)}"
            )
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from None
        found = {word for line in lines for word in line.partition("#")[0].lower().split()}
        if not found:
            raise ValueError(f"{file} holds no words")
        words |= found
    if not words:
        raise ValueError("stop words: no list is named; expected en, zh or a file")
    # Texts have either apostrophe.
    return frozenset(words | {word.replace("'", "’") for word in words})
