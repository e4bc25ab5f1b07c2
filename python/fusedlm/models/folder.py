"""Writing a folder so that a reader sees the old one or the new one, never half of either."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str], marker: str = "config.json") -> Iterator[Path]:
    """Yields a new folder to fill; on leaving it takes the place of `path`, all at once.

    Everything is flushed to disk first. If the block raises, `path` stays as it was. A folder that
    is not empty and has no file named `marker` is somebody else's: FileExistsError. Files of an
    old folder that the new one does not have are gone afterwards.
    """
    path = Path(os.path.realpath(path))  # a link stays, and what it points to is replaced
    recover_folder(path)
    must_be_replaceable(path, marker)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=_new(path), dir=path.parent))
    try:
        new.chmod(0o777 & ~_umask())  # mkdtemp makes folders that only the owner can read
        yield new
        _flush(new)
        _take_place(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    _flush_folder(path.parent)


def must_be_replaceable(path: str | os.PathLike[str], marker: str = "config.json") -> None:
    """FileExistsError where `atomic_folder` would refuse: to be told before what is written is made."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file, expected a folder or nothing")
    if path.is_dir() and any(path.iterdir()) and not (path / marker).exists():
        raise FileExistsError(f"{path} is not empty and has no {marker}; not overwriting it")


def final_name(folder: Path) -> str:
    """What a folder that `atomic_folder` yields will be called, and of another its name."""
    name = folder.absolute().name
    return name[1:].rpartition(".new-")[0] if name.startswith(".") and ".new-" in name else name


def recover_folder(path: Path) -> None:
    """Puts back a folder that a crash left under its backup name (see `_take_place`)."""
    path = Path(os.path.realpath(path))
    backup = _backup(path)
    if not path.exists() and backup.is_dir():
        backup.rename(path)


def clear_up(path: Path) -> None:
    """Puts right what a killed `atomic_folder` of `path` has left. Not while another one may be at it."""
    path = Path(os.path.realpath(path))
    recover_folder(path)
    for leftover in path.parent.glob(f"{glob.escape(_new(path))}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if path.exists():
        shutil.rmtree(_backup(path), ignore_errors=True)


def _take_place(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
        return
    if _exchange(new, path):  # `new` now holds the old folder, which the caller removes
        return
    backup = _backup(path)
    shutil.rmtree(backup, ignore_errors=True)
    path.rename(backup)
    new.rename(path)
    shutil.rmtree(backup, ignore_errors=True)


def _new(path: Path) -> str:
    return f".{path.name}.new-"


def _backup(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _exchange(a: Path, b: Path) -> bool:
    """Swaps two names in one step; False where the system or file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    failed: int = rename(
        _AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    return failed == 0


def _flush(folder: Path) -> None:
    for root, _, files in os.walk(folder):
        for name in files:
            with open(os.path.join(root, name), "rb") as file:
                os.fsync(file.fileno())
        _flush_folder(Path(root))


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
