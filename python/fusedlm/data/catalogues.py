"""Messages of programs and their translations: gettext's catalogues, compiled (.mo) and as text (.po).

Format: https://www.gnu.org/software/gettext/manual/html_node/MO-Files.html
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fusedlm.errors import CorruptFileError

from .preprocess.lines import check_encoding

SUFFIXES = (".mo", ".po")
_CONTEXT, _PLURAL = "\x04", "\x00"  # msgctxt EOT msgid, and NUL between singular and plural
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
# Bytes of the file's charset, of which several in a row may be one character; as msgfmt, "\x" takes
# all the digits there are.
_BYTE = re.compile(r"\\(?:x([0-9A-Fa-f]+)|([0-7]{1,3}))")
_ESCAPE = re.compile(rf"(?:{_BYTE.pattern})+|\\(?P<other>.)", re.DOTALL)
# Not all that ends a line elsewhere: a message may hold U+2028 or a form feed.
_LINE_END = re.compile("\r\n?|\n")
_KEYWORD = re.compile(r"(msgctxt|msgid_plural|msgid|msgstr(?:\[(\d+)\])?)\s*(\".*)")

Pair = tuple[str, str]


@dataclass(frozen=True)
class Message:
    """A message with its translations, or why it has none; `place` is "app.po, message 12"."""

    place: str
    pairs: tuple[Pair, ...] = ()
    skipped: str | None = None


def read_catalogue(file: Path) -> Iterator[Message]:
    """The messages of a catalogue without contexts, as (message, translation).

    Of a message with a plural both are given: the singular with the first form and the plural with
    the last. Raises CorruptFileError naming the file and what is wrong.
    """
    read = _read_mo if file.suffix.lower() == ".mo" else _read_po
    for number, (message, forms, fuzzy) in enumerate(read(file), 1):
        message = message.split(_CONTEXT, 1)[-1]
        if not message:  # the header
            continue
        place = f"{file.name}, message {number}"
        if fuzzy or not any(forms):
            yield Message(place, skipped="fuzzy" if fuzzy else "untranslated")
            continue
        singular, *plural = message.split(_PLURAL)
        found = [(singular, forms[0])] if len(forms) > 1 or not plural else []
        found += [(plural[0], forms[-1])] if plural else []
        yield Message(place, tuple(found))


def _read_mo(file: Path) -> Iterator[tuple[str, list[str], bool]]:
    data = file.read_bytes()
    magic = data[:4]
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}.get(magic)
    if order is None or len(data) < 20:
        raise CorruptFileError(file, f"begins with {magic.hex()}, expected a gettext .mo file")
    count, originals, translations = struct.unpack_from(order + "3I", data, 8)

    def text(table: int, number: int) -> bytes:
        at = table + 8 * number
        if at + 8 > len(data):
            raise CorruptFileError(file, f"has {count} messages, but ends before their table does")
        length, start = struct.unpack_from(order + "2I", data, at)
        if start + length > len(data):
            raise CorruptFileError(file, f"message {number} lies beyond the end: cut short?")
        return data[start : start + length]

    entries = [(text(originals, n), text(translations, n)) for n in range(count)]
    header = next((value for key, value in entries if not key), b"")
    charset = _charset(file, header.decode("ascii", "replace"))
    for number, (key, value) in enumerate(entries):
        try:
            yield key.decode(charset), value.decode(charset).split(_PLURAL), False
        except UnicodeError as error:
            raise CorruptFileError(file, f"message {number} is not {charset}: {error}") from None


def _charset(file: Path, header: str) -> str:
    found = re.search(r"charset=([\w.:-]+)", header)
    name = found[1] if found else "utf-8"
    if name == "CHARSET":  # a template that nobody has filled in
        return "utf-8"
    try:
        return codecs.lookup(check_encoding(name)).name
    except ValueError:
        raise CorruptFileError(file, f"has the unknown charset {name!r}") from None


def _read_po(file: Path) -> Iterator[tuple[str, list[str], bool]]:
    data = file.read_bytes()
    charset = _charset(file, data[:4096].decode("ascii", "replace"))
    try:
        text = data.decode("utf-8-sig" if charset == "utf-8" else charset)
    except UnicodeDecodeError as error:
        place = data[: error.start].count(b"\n") + 1
        raise CorruptFileError(file, f"line {place} is not {charset}") from None
    except UnicodeError as error:  # codecs that do not say where
        raise CorruptFileError(file, f"is not {charset}: {error}") from None
    entry: dict[str, str] = {}
    at, fuzzy = "", False
    for number, line in enumerate(_LINE_END.split(text), 1):
        line = line.strip()
        found = _KEYWORD.fullmatch(line)
        # What follows the translation begins the next entry.
        over = line.startswith("#") or (found and found[1] in ("msgctxt", "msgid"))
        if over and at.startswith("msgstr"):
            yield _entry(entry, fuzzy)
            entry, at, fuzzy = {}, "", False
        if line.startswith("#,"):
            fuzzy = fuzzy or "fuzzy" in line
        elif found:
            at = found[1]
            entry[at] = _unquoted(file, number, found[3], charset)
        elif line.startswith('"') and at:
            entry[at] += _unquoted(file, number, line, charset)
        elif line and not line.startswith("#"):
            raise CorruptFileError(
                file, f"line {number} is {line[:60]!r}, expected msgid, msgstr or text in quotes"
            )
    if entry:
        yield _entry(entry, fuzzy)


def _entry(entry: dict[str, str], fuzzy: bool) -> tuple[str, list[str], bool]:
    message = entry.get("msgid", "")
    if "msgid_plural" in entry:
        message += _PLURAL + entry["msgid_plural"]
    forms = [value for key, value in sorted(entry.items()) if key.startswith("msgstr")]
    return message, forms or [""], fuzzy


def _unquoted(file: Path, number: int, text: str, charset: str) -> str:
    if len(text) < 2 or not text.endswith('"'):
        raise CorruptFileError(file, f"line {number}: the quotes do not close")

    def meant(escape: re.Match[str]) -> str:
        if escape["other"]:
            return _ESCAPES.get(escape["other"], escape["other"])
        values = (int(x, 16) if x else int(octal, 8) for x, octal in _BYTE.findall(escape[0]))
        return bytes(value & 0xFF for value in values).decode(charset)

    try:
        return _ESCAPE.sub(meant, text[1:-1])
    except UnicodeError:
        what = f"line {number}: an escape gives bytes that are not {charset}"
        raise CorruptFileError(file, what) from None
