"""One way to write each character: Unicode forms, control characters, spaces."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from typing import Literal, get_args

Form = Literal["NFC", "NFKC", "NFD", "NFKD"]
FORMS: tuple[Form, ...] = get_args(Form)
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*+[ -/]*+[@-~]|\][^\x07\x1b]*+(?:\x07|\x1b\\)|[@-Z\\-_])")
# Controls but tab and line ends; soft hyphen, zero-width space, word joiner and byte order mark, marks
# of direction. Zero-width joiners stay: emoji and the scripts of India and Persia are spelt with them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064"
    "\u2066-\u2069\ufeff\ufff9-\ufffb]"
)
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\u2028\u2029]")
# Windows' dashes and quotes, which were read as Latin-1: as in HTML, they are what Windows meant.
_WINDOWS = {i: bytes([i]).decode("cp1252", "ignore") or None for i in range(0x80, 0xA0)}
_ANY_WINDOWS = re.compile("[\x80-\x9f]")
_BLANKS = re.compile("[ \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
_AROUND_LINES = re.compile(" ?\n ?")
_EMPTY_LINES = re.compile("\n{3,}")


def normalise(text: str, form: Form) -> str:
    """Escape sequences of terminals and invisible characters out, line ends as "\\n", one Unicode form.

    NFC joins letters and accents; NFKC also makes full-width letters, ligatures and the like plain.
    """
    if not text.isascii():
        if _ANY_WINDOWS.search(text):
            text = text.translate(_WINDOWS)
        text = unicodedata.normalize(form, text)
    if "\x1b" in text:
        text = _ESCAPES.sub("", text)
    text = _LINE_ENDS.sub("\n", text)
    return _INVISIBLE.sub("", text)


def squeeze(text: str) -> str:
    """One blank between words, none around lines, at most one empty line; the ends are bare."""
    text = _AROUND_LINES.sub("\n", _BLANKS.sub(" ", text))
    return _EMPTY_LINES.sub("\n\n", text).strip()


_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")


def han_count(text: str) -> int:
    return 0 if text.isascii() else len(_HAN.findall(text))


def guess_language(text: str) -> str:
    """ "zh" where a tenth of the text's start is Chinese characters, else "en": which rules to go by."""
    start = text[:2000]
    return "zh" if 10 * han_count(start) >= max(len(start), 1) else "en"


# First code points of the blocks that texts are made of; what is between goes by the one before.
_SCRIPTS = [
    (0x0041, "Latin"), (0x0370, "Greek"), (0x0400, "Cyrillic"), (0x0530, "Armenian"),
    (0x0590, "Hebrew"), (0x0600, "Arabic"), (0x0700, "other"), (0x0900, "Devanagari"),
    (0x0980, "other"), (0x0E00, "Thai"), (0x0E80, "other"), (0x10A0, "Georgian"), (0x1100, "Hangul"),
    (0x1200, "other"), (0x1E00, "Latin"), (0x1F00, "Greek"), (0x2000, "other"), (0x2E80, "Han"),
    (0x3040, "Kana"), (0x3100, "Han"), (0x3130, "Hangul"), (0x3190, "Han"), (0x31F0, "Kana"),
    (0x3200, "Han"), (0xA000, "other"), (0xAC00, "Hangul"), (0xD7B0, "other"), (0xF900, "Han"),
    (0xFB00, "Latin"), (0xFB13, "other"), (0xFF21, "Latin"), (0xFF66, "Kana"), (0xFFA0, "Hangul"),
    (0xFFE0, "other"), (0x20000, "Han"), (0x33480, "other"),
]  # fmt: skip
_ASCII_LETTER = re.compile("[A-Za-z]")
_STARTS = [start for start, _ in _SCRIPTS]


def main_script(text: str) -> str:
    """The script that most letters of the text's start are in, such as "Latin" or "Han"."""
    start = text[:1000]
    if start.isascii():
        return "Latin" if _ASCII_LETTER.search(start) else "none"
    counts: dict[str, int] = {}
    for character, count in Counter(start).items():
        if character.isalpha():
            script = _SCRIPTS[bisect_right(_STARTS, ord(character)) - 1][1]
            counts[script] = counts.get(script, 0) + count
    return max(counts, key=lambda script: (counts[script], script)) if counts else "none"
