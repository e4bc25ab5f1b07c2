"""Exceptions of fusedlm that have no equivalent among Python's own."""

from __future__ import annotations

__all__ = ["CorruptFileError"]


class CorruptFileError(Exception):
    """A file exists but does not hold what its format promises; the message names the file."""

    def __init__(self, path: object, reason: str = "") -> None:
        super().__init__(f"{path}: {reason}" if reason else str(path))
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[CorruptFileError], tuple[str, str]]:
        return type(self), (self.path, self.reason)


# What the command line says in one line instead of a traceback: the input or the machine is at fault.
EXPECTED = (
    ValueError, OSError, FloatingPointError, NotImplementedError, MemoryError, CorruptFileError,
)  # fmt: skip
