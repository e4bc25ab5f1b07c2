"""Comments as they stand in source files, as Markdown for the site."""

from __future__ import annotations

import inspect
import re

# What Markdown reads as markup outside `code`, and a comment means as itself.
_MARKUP = re.compile(r"([\\*_<\[\]{}~|$])")
_LINE_START = re.compile(r"^([#>+=]|\d+[.)])")
_CODE = re.compile(r"(``.*?``|`[^`]*`)", re.DOTALL)
_ITEM = re.compile(r"^([-*]) ")


def fenced(code: str, language: str = "text") -> str:
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`{3,}", code))])
    return f"{fence}{language}\n{code.rstrip()}\n{fence}\n"


def from_comment(text: str | None) -> str:
    """Paragraphs and lists stay, indented lines (tables, formulas, examples) keep their columns."""
    parts: list[str] = []
    for kind, lines in _runs(inspect.cleandoc(text or "").splitlines()):
        body = "\n".join(lines)
        parts.append(fenced(inspect.cleandoc("\n" + body)) if kind == "code" else _plain(body))
    return "\n".join(parts)


def _runs(lines: list[str]) -> list[tuple[str, list[str]]]:
    """Neighbouring lines of one kind: "code" or "prose"."""
    runs: list[tuple[str, list[str]]] = []
    kind, in_list = "prose", False
    for line in lines:
        indented = line.startswith("  ")
        if line.strip():  # a blank line goes with what is above it
            in_list = bool(_ITEM.match(line)) or (in_list and indented)
            kind = "code" if indented and not in_list else "prose"
        if not runs or runs[-1][0] != kind:
            runs.append((kind, []))
        runs[-1][1].append(line)
    return runs


def _plain(text: str) -> str:
    pieces = _CODE.split(text)
    pieces[::2] = [_MARKUP.sub(r"\\\1", piece) for piece in pieces[::2]]
    lines = "".join(pieces).splitlines()
    return "\n".join(_LINE_START.sub(r"\\\1", line) for line in lines) + "\n"


def cell(text: str) -> str:
    """One cell of a table."""
    return _plain(" ".join(text.split())).rstrip().replace("`", "'")
