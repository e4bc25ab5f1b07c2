"""What travels through the pipeline: rows, and what is said of those that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Row:
    """One document. `fields` are the other columns of its row, in their order, `text` is one of them.

    Steps fill in the rest: `pieces` are sentences or lines of words, `tags` belong to `words`,
    `signature` is what near duplicates are found by.
    """

    text: str
    fields: dict[str, Any]
    file: str
    line: int
    pieces: list[str] | None = None
    words: list[str] | None = None
    tags: list[str] | None = None
    language: str | None = None
    signature: Any = None


@dataclass(frozen=True, slots=True)
class Bad:
    """A row, or a file, that cannot be used: its place, the kind of trouble and the words for it."""

    file: str
    line: int
    kind: str
    what: str

    def __str__(self) -> str:
        return (
            f"{self.file}, line {self.line}: {self.what}"
            if self.line
            else f"{self.file}: {self.what}"
        )


@dataclass
class Tally:
    """What one step did: rows it changed or dropped, counts of its own, and the first examples."""

    changed: int = 0
    dropped: int = 0
    details: dict[str, int] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)

    EXAMPLES = 3

    def count(self, name: str, number: int = 1) -> None:
        self.details[name] = self.details.get(name, 0) + number

    def example(self, row: Row, **values: Any) -> None:
        if len(self.examples) < self.EXAMPLES:
            self.examples.append({"file": row.file, "line": row.line, **values})

    def add(self, later: Tally) -> None:
        """Joins what was counted of the rows after these."""
        self.changed += later.changed
        self.dropped += later.dropped
        for name, number in later.details.items():
            self.count(name, number)
        self.examples.extend(later.examples[: self.EXAMPLES - len(self.examples)])

    def as_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {"changed": self.changed, "dropped": self.dropped}
        if self.details:
            values["details"] = dict(sorted(self.details.items()))
        return {**values, "examples": self.examples}
