"""Writes csrc/engine/unicode_tables.h: what the tokenizers ask of Unicode, from Python's unicodedata.

    python tools/unicode_tables.py

Run it again to follow a newer Unicode; `unicodedata.unidata_version` of the Python that ran it stands in the
file.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

TARGET = Path(__file__).parent.parent / "csrc/engine/unicode_tables.h"
WHITE_SPACE = {
    *range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F,
    0x205F, 0x3000,
}  # fmt: skip


def kind(code: int) -> int:
    """0 other, 1 letter, 2 number, 3 white space; the numbers of CharKind in unicode.h."""
    category = unicodedata.category(chr(code))[0]
    return 3 if code in WHITE_SPACE else {"L": 1, "N": 2}.get(category, 0)


def case(code: int) -> int:
    """Of letters and marks: 1 upper case, 2 lower case, 3 neither; the numbers of Case in unicode.h."""
    category = unicodedata.category(chr(code))
    cased = {"Lu": 1, "Lt": 1, "Ll": 2}.get(category)
    return cased or (3 if category[0] in "LM" else 0)


def ranges(value_of: Callable[[int], int]) -> list[tuple[int, int, int]]:
    """(first, last, value) of every run of code points with the same value above 0."""
    runs: list[tuple[int, int, int]] = []
    for code in range(sys.maxunicode + 1):
        value = value_of(code)
        if value and runs and runs[-1][1] == code - 1 and runs[-1][2] == value:
            runs[-1] = (runs[-1][0], code, value)
        elif value:
            runs.append((code, code, value))
    return runs


def decompositions() -> list[tuple[int, int, int]]:
    """(code, first, second) of canonical decompositions, one step; Hangul follows a rule instead.

    The sign bit of `code` marks those that composition never makes again.
    """
    found = []
    for code in range(sys.maxunicode + 1):
        mapping = unicodedata.decomposition(chr(code))
        if mapping and not mapping.startswith("<"):
            parts = [int(part, 16) for part in mapping.split()]
            first, second = (*parts, 0)[:2]
            excluded = unicodedata.normalize("NFC", chr(code)) != chr(code)
            found.append((code | excluded << 31, first, second))
    return found


def table(name: str, comment: str, rows: Iterable[tuple[int, int, int]]) -> str:
    lines, line = [], "   "
    for row in rows:
        item = " {" + ", ".join(f"0x{value:x}" for value in row) + "},"
        if len(line) + len(item) > 100:
            lines.append(line)
            line = "   "
        line += item
    body = "\n".join([*lines, line])
    return f"// {comment}\ninline constexpr uint32_t {name}[][3] = {{\n{body}\n}};\n"


def main() -> None:
    parts = [
        "#pragma once\n"
        f"// Written by tools/unicode_tables.py from Unicode {unicodedata.unidata_version}; do not edit.\n"
        "// clang-format off\n\n#include <cstdint>\n\nnamespace fusedlm::unicode {\n",
        table("kKinds", "First and last of a run of characters, and their CharKind.", ranges(kind)),
        table("kCases", "First and last of a run of characters, and their Case.", ranges(case)),
        table(
            "kCombining",
            "First and last of a run, and their canonical combining class.",
            ranges(lambda code: unicodedata.combining(chr(code))),
        ),
        table(
            "kDecompositions",
            "A character (its top bit set: never composed again) and the one or two it stands for.",
            decompositions(),
        ),
        "}  // namespace fusedlm::unicode\n",
    ]
    TARGET.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
