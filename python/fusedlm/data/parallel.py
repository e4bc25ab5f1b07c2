"""Sentences and their translations: files of many kinds, cleaned, and split by what is translated."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from fusedlm.models.files import write_text

from . import catalogues
from .json_lines import parsed
from .labelled import Skipped, is_text, refuse_utf16

Pair = tuple[str, str]

LONGEST = 4000  # characters of a side; no sentence has so many
_NOT_TEXT = "not UTF-8"
_MOST_BROKEN = 0.1  # of the lines of a file: one with more has another encoding
_KINDS = ".tsv, .jsonl, .mo, .po, a folder of .mo and .po files, or two text files"
# "(&F)", what is put behind words of scripts without letters to press; "&File", "E&xit"; "~File",
# "_File". Not those: "Q&A", "&amp;", "file_name.txt", "~/folder".
_BEHIND = re.compile(r"\s*\([&_~]\w\)")
_MARK = re.compile(r"&(?=[a-z])(?!\w+;)|(?<![\w&])&(?=[^\W_])(?!\w+;)|[_~](?=[^\W\d_])")
_OF_A_NAME = re.compile(r"[^\W_][.\d/(@]\w*_|_\w*[.\d/(@]\w|_\w*_")


@dataclass
class Parallel:
    """Pairs (source, target), what was left out, and where each pair stands.

    Without `places`, that is its number from 1.
    """

    pairs: list[Pair]
    skipped: Skipped = field(default_factory=Skipped)
    places: list[str] = field(default_factory=list)

    def place(self, number: int) -> str:
        """Where pair `number` stands: "pairs.tsv:12"."""
        return self.places[number] if self.places else f"pair {number + 1}"


def read_parallel(
    paths: Sequence[str | Path], *, source: str = "source", target: str = "target"
) -> Parallel:
    """The pairs of one file or folder, or of two text files with a sentence a line, as they are.

    .tsv has source and target in its first two columns. .jsonl has objects with the keys `source`
    and `target`, at the top or in an object "translation". .mo and .po are gettext's catalogues; a
    folder gives all of them in it. Lines that are not UTF-8 are skipped and counted. Raises
    FileNotFoundError, CorruptFileError, and ValueError for two files of different lengths, a file
    of another kind, or one of another encoding.
    """
    given = [Path(path) for path in paths]
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; expected {_KINDS}")
    if len(given) == 2:
        return _two_files(*given)
    if len(given) != 1:
        raise ValueError(f"read_parallel: {len(given)} files are given, expected {_KINDS}")
    (path,) = given
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in catalogues.SUFFIXES)
        if not files:
            raise FileNotFoundError(f"{path} holds no .mo or .po file")
        return _catalogues(files)
    suffix = path.suffix.lower()
    if suffix in catalogues.SUFFIXES:
        return _catalogues([path])
    if suffix == ".tsv":
        return _tsv(path)
    if suffix in (".jsonl", ".ndjson"):
        return _jsonl(path, source, target)
    raise ValueError(f"{path}: expected {_KINDS}")


def write_jsonl(file: Path, pairs: Sequence[Pair]) -> None:
    """What `read_parallel` reads again."""
    lines = (json.dumps({"source": s, "target": t}, ensure_ascii=False) + "\n" for s, t in pairs)
    write_text(file, "".join(lines))


def read_lines(path: Path) -> Iterator[str | None]:
    """The lines of a UTF-8 file without their ends; None for one that is not UTF-8."""
    with open(path, "rb") as file:
        yield from decode_lines(file, str(path))


def decode_lines(lines: Iterable[bytes], name: str) -> Iterator[str | None]:
    """`read_lines` of a file that is open already, which errors call `name`."""
    for number, line in enumerate(lines):
        if number == 0:
            refuse_utf16(line, name)
        try:
            yield line.decode("utf-8-sig" if number == 0 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            yield None


def _two_files(source: Path, target: Path) -> Parallel:
    found = Parallel([])
    counts = [0, 0]
    over: Literal[False] = False
    both = zip_longest(read_lines(source), read_lines(target), fillvalue=over)
    for number, (s, t) in enumerate(both, 1):
        counts[0] += s is not False
        counts[1] += t is not False
        _take(found, s, t, f"{source.name}:{number}")
    if counts[0] != counts[1]:
        raise ValueError(
            f"{source} has {counts[0]:,} lines and {target} has {counts[1]:,}: line n of one must be"
            " the translation of line n of the other"
        )
    return _checked(found, source)


def _take(
    found: Parallel, source: str | Literal[False] | None, target: str | Literal[False] | None,
    place: str,
) -> None:  # fmt: skip
    if source is None or target is None:
        found.skipped.add(_NOT_TEXT, place)
    elif source is not False and target is not False:
        found.pairs.append((source, target))
        found.places.append(place)


def _checked(found: Parallel, path: Path) -> Parallel:
    broken = found.skipped.counts.get(_NOT_TEXT, 0)
    if broken > _MOST_BROKEN * (broken + len(found.pairs)):
        raise ValueError(
            f"{path}: {broken:,} of {broken + len(found.pairs):,} lines are not UTF-8; convert the"
            " file first, for example with iconv"
        )
    return found


def _tsv(path: Path) -> Parallel:
    found = Parallel([])
    for number, line in enumerate(read_lines(path), 1):
        place = f"{path.name}:{number}"
        columns = [] if line is None else line.split("\t")
        if line is None:
            _take(found, None, None, place)
        elif len(columns) >= 2:
            _take(found, columns[0], columns[1], place)
        elif number == 1 and line:
            raise ValueError(f"{path}: line 1 has no tab, expected source, tab, target")
        else:
            found.skipped.add("without a tab", place)
    return _checked(found, path)


def _jsonl(path: Path, source: str, target: str) -> Parallel:
    found = Parallel([])
    for number, line in enumerate(read_lines(path), 1):
        place = f"{path.name}:{number}"
        if line is None:
            _take(found, None, None, place)
        elif line.strip():
            first, second = (
                side if is_text(side) else None
                for side in _object(path, number, line, source, target)
            )
            _take(found, first, second, place)
    return _checked(found, path)


def _object(path: Path, number: int, line: str, source: str, target: str) -> Pair:
    try:
        value = parsed(line)
    except ValueError as error:
        raise ValueError(f"{path}: line {number} is not JSON ({error})") from None
    if isinstance(value, dict) and isinstance(value.get("translation"), dict):
        value = value["translation"]
    first, second = (
        value.get(key) if isinstance(value, dict) else None for key in (source, target)
    )
    if not (isinstance(first, str) and isinstance(second, str)):
        raise ValueError(
            f"{path}: line {number}: expected an object with texts {source!r} and {target!r}, got"
            f" {line[:80]}"
        )
    return first, second


def _catalogues(files: Sequence[Path]) -> Parallel:
    found = Parallel([])
    for file in files:
        for message in catalogues.read_catalogue(file):
            if message.skipped is not None:
                found.skipped.add(message.skipped, message.place)
            for pair in message.pairs:
                found.pairs.append(pair)
                found.places.append(message.place)
    return found


def clean(text: str, *, accelerators: bool = False) -> str:
    """One line, in Unicode's composed form (NFC), with single spaces.

    With `accelerators` the mark that says which key chooses a menu's entry is taken away: "_File"
    becomes "File", "文件(&F)" "文件". Such marks are letters of no word.
    """
    text = " ".join(unicodedata.normalize("NFC", text).split())
    # Of menus; in a text that is too long the patterns take the square of its length.
    return without_accelerator(text) if accelerators and len(text) <= LONGEST else text


def without_accelerator(text: str) -> str:
    """`text` without its mark of a key; as it is where more than one could be meant."""
    text = _BEHIND.sub("", text)
    marks = list(_MARK.finditer(text))
    if len(marks) != 1 or _OF_A_NAME.search(text):
        return text
    return text[: marks[0].start()] + text[marks[0].end() :]


def prepare(found: Parallel, *, accelerators: bool = False) -> Parallel:
    """Cleaned pairs, each source once, with its most frequent translation (the first of equals).

    Left out and counted: pairs with an empty or an overlong side, and what is there already.
    """
    skipped = Skipped()
    skipped.add_all(found.skipped)
    targets: dict[str, Counter[str]] = {}
    places: list[str] = []
    for number, pair in enumerate(found.pairs):
        source, target = (clean(side, accelerators=accelerators) for side in pair)
        place = found.place(number)
        if not source or not target:
            skipped.add("a side is empty", place)
        elif max(len(source), len(target)) > LONGEST:
            skipped.add(f"longer than {LONGEST} characters", place)
        elif source in targets:
            skipped.add("the source is there already", place)
            targets[source][target] += 1
        else:
            targets[source] = Counter([target])
            places.append(place)
    pairs = [(source, known.most_common(1)[0][0]) for source, known in targets.items()]
    return Parallel(pairs, skipped, places)


def split_by_source(
    pairs: Sequence[Pair], shares: Sequence[float]
) -> tuple[list[Pair], list[list[Pair]]]:
    """The pairs to train on, and one part for each of `shares`.

    A hash of its `source_key` decides: "Search:" and "search" are always in the same part, and a pair
    stays where it is when others come.
    """
    if any(share < 0 for share in shares) or not sum(shares) < 1:
        raise ValueError(f"split_by_source: shares are {list(shares)}, expected a sum below 1")
    train: list[Pair] = []
    parts: list[list[Pair]] = [[] for _ in shares]
    for pair in pairs:
        at = _place(pair[0])
        chosen = train
        for part, share in zip(parts, shares, strict=True):
            if at < share:
                chosen = part
                break
            at -= share
        chosen.append(pair)
    return train, parts


def source_key(source: str) -> str:
    """Letters and digits of a source, without case: what is the same source to a reader."""
    return " ".join(re.findall(r"[^\W_]+", source.casefold())) or source


def _place(source: str) -> float:
    """Where a source stands in [0, 1)."""
    digest = hashlib.sha256(source_key(source).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
