"""The examples in README.md and docs/: blocks of code, and the commands of fusedlm they show."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
_COMMAND = re.compile(r"(?:^|.* (?:&&|\|) |torchrun .*? -m )fusedlm(?= )")


@dataclass(frozen=True)
class Block:
    """A fenced block. `not_run` is the reason that a comment in the line above gives, if there is one."""

    page: Path
    line: int  # of the fence, from 1
    language: str
    code: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        match = _NOT_RUN.fullmatch(lines[start - 1]) if start else None
        code = "\n".join(lines[start + 1 : number]) + "\n"
        language = lines[start].removeprefix("```")
        found.append(Block(page, start + 1, language, code, match and match[1]))
        start = None
    assert start is None, f"{page}:{start}: a block without an end"
    return found


def commands(block: Block) -> list[list[str]]:
    """The words behind `fusedlm` in the lines of a block that begin with it, torchrun's too."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [
        shlex.split(line[match.end() :], comments=True)
        for line in lines
        if (match := _COMMAND.match(line))
    ]


def other_lines(block: Block) -> list[str]:
    """The lines of a block of commands that are none of fusedlm's."""
    if block.language:
        return []
    lines = block.code.replace("\\\n", " ").splitlines()
    return [
        line for line in lines if line and not line.startswith("#") and not _COMMAND.match(line)
    ]


def inline_commands(page: Path) -> list[list[str]]:
    """Those in the sentences: `fusedlm train --resume`."""
    text = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    return [
        shlex.split(" ".join(found.split())) for found in re.findall(r"`fusedlm ([^`]*)`", text)
    ]
