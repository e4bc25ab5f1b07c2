"""One kind of file: a valid one, how it is damaged, and who reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from .mutate import Mutation

LARGEST = 1 << 17  # bytes of an input: what is slow shows in less
CORPUS = Path(__file__).resolve().parents[2] / "tests" / "fuzz" / "corpus"


class Broken(Exception):
    """What a reader gave back, or did, that it must not; for checks that are no exception of its own."""


@dataclass(frozen=True)
class Case:
    """`read` gets the path of the file, which lies in a folder with the files of `beside`.

    `words` are other ways in which an error may name the file: a folder's name, say.
    """

    name: str
    file: str
    valid: bytes
    damage: Mutation
    read: Callable[[Path], object]
    beside: Mapping[str, bytes] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    names_file: bool = True

    def lay_out(self, folder: Path) -> Path:
        """Writes the files beside into `folder`; where the input is to be written."""
        for name, data in self.beside.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True)
class Target:
    """`cases` makes them, which may take a second. `room` is how much memory above what is in use before
    an input may take, in MiB, whatever its size: beyond it allocations fail. `threads`: readers have some,
    so that nothing is read in a process that forks."""

    name: str
    cases: Callable[[], list[Case]]
    room: int = 192
    threads: bool = False


def damaged(cases: list[Case], target: str, seed: int, index: int) -> tuple[Case, bytes]:
    """Input number `index` of `seed`: always the same one."""
    random = Random(f"{target}:{seed}:{index}")
    case = cases[index % len(cases)]
    return case, case.damage(random, case.valid)[:LARGEST]


def corpus_of(target: str) -> list[Path]:
    """What was found before, as `CASE--what.ext` in the target's folder."""
    return sorted((CORPUS / target).glob("*--*"))
