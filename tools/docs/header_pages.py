"""The reference of the C++ headers, from their own comments: one page a header.

This is no parser of C++. It relies on what all headers here keep to: `///` in front of what is public,
a blank line between declarations that do not belong together, and clang-format's layout.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from .guides import ROOT
from .markdown import fenced, from_comment

_NAME = re.compile(
    r"(?:template <.*>\s*)?(?:"
    r"(?:struct|enum class|class)\s+(\w+)"
    r"|using\s+(\w+)"
    r"|#define\s+(\w+)"
    r"|constexpr\s+\w+\s+(\w+)"
    r"|[^(=]*?(\w+)\()"
)
_FRAME = re.compile(r"#pragma|#include|namespace fusedlm \{|\}  // namespace|//(?!/)")


@dataclass
class Entry:
    """Declarations that stand together, and the `///` lines in front of them."""

    comment: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Of what is declared at the outermost level."""
        found: dict[str, None] = {}
        depth = 0
        for line in self.code:
            if depth == 0 and (match := _NAME.match(line)):
                found[next(name for name in match.groups() if name)] = None
            depth += _depth(line)
        return list(found)

    def markdown(self) -> str:
        title = ", ".join(f"`{name}`" for name in self.names)
        comment = from_comment("\n".join(self.comment))
        return f"## {title}\n\n{comment}\n{fenced(_public(self.code), 'cpp')}"


def _depth(line: str) -> int:
    code = line.split("//")[0]
    return sum(code.count(c) for c in "{(") - sum(code.count(c) for c in "})")


def _public(code: list[str]) -> str:
    """A declaration without the private parts of classes."""
    kept: list[str] = []
    hidden: int | None = None  # the indent of the `private:` that we are behind
    for line in code:
        indent = len(line) - len(line.lstrip())
        if hidden is None and line.strip() == "private:":
            hidden = indent
        if hidden is not None and line.strip() == "};" and indent < hidden:
            hidden = None
        if hidden is None:
            kept.append(line)
    return re.sub(r"\n+(\s*};)", r"\n\1", "\n".join(kept))


def entries(text: str) -> list[Entry]:
    """The documented declarations of a header, in order."""
    found = [Entry()]
    depth = 0
    for line in text.splitlines():
        now = found[-1]
        if depth == 0 and not line.strip():
            found.append(Entry())
        elif depth == 0 and _FRAME.match(line):
            continue
        elif depth == 0 and line.startswith("///"):
            if now.code:
                found.append(now := Entry())
            now.comment.append(line.removeprefix("///").removeprefix(" "))
        else:
            now.code.append(line)
            depth += _depth(line)
    macro = [e for e in found if e.code and e.code[0].startswith("#") and not e.comment]
    return [e for e in found if e.code and e not in macro]


def headers() -> list[Path]:
    """What docs/cpp.md calls the API; roof.h is for benchmarks."""
    found = sorted((ROOT / "csrc/include/fusedlm").glob("*.h"))
    return [header for header in found if header.name != "roof.h"]


def page(header: Path) -> str:
    """The page of one header."""
    text = header.read_text(encoding="utf-8")
    opening = re.match(r"#pragma once\n((?://(?!/).*\n)*)", text)
    about = re.sub(r"^// ?", "", opening[1] if opening else "", flags=re.MULTILINE)
    name = f"fusedlm/{header.name}"
    parts = [f"# {name}\n", from_comment(about), fenced(f"#include <{name}>", "cpp")]
    return "\n".join([*parts, *(entry.markdown() for entry in entries(text))])
