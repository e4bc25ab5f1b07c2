"""A run's folder belongs to one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fusedlm._sharded import rank
from fusedlm.models.folder import clear_up

LOCK = "run.lock"
_held: dict[Path, int] = {}  # the folders this process holds, and the thread that does


@contextlib.contextmanager
def hold(folder: str | os.PathLike[str]) -> Iterator[None]:
    """No other process trains in `folder` while the block runs; of several ranks, rank 0 holds it.

    The folder is made where it is missing, and what a run that was killed left half done in it is put
    right. The lock is the kernel's (flock): it ends with the process, however that ends. A thread may
    hold a folder twice.

    Raises BlockingIOError naming the process that holds it; OSError naming a folder that cannot be
    written to.
    """
    path = Path(os.path.abspath(folder))
    if rank() > 0 or _held.get(path) == threading.get_ident():
        yield
        return
    made = not path.exists()
    file = _lock(path)
    _held[path] = threading.get_ident()
    try:
        for name in ("last", "best"):
            clear_up(path / name)
        yield
    finally:
        del _held[path]
        with contextlib.suppress(OSError):
            (path / LOCK).unlink()
            if made:
                path.rmdir()  # where nothing has been written
        file.close()


def _lock(path: Path) -> BinaryIO:
    while True:
        try:
            path.mkdir(parents=True, exist_ok=True)
            # Without a buffer: what did not fit on the disk is not tried again when it is closed.
            file = open(path / LOCK, "a+b", buffering=0)
        except OSError as error:
            raise type(error)(
                error.errno,
                f"{path} cannot be written to ({error.strerror}); choose another folder",
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, _taken(path, file)) from error
        except OSError:  # a file system without locks: better unguarded than not at all
            return file
        if _is_at(path / LOCK, file):
            break
        file.close()  # whoever held it has ended, and removed it, meanwhile
    with contextlib.suppress(OSError):  # of a full disk; the number is for the message alone
        file.truncate(0)
        file.write(f"{os.getpid()}\n".encode())
    return file


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _taken(path: Path, file: BinaryIO) -> str:
    with file:
        file.seek(0)
        number = file.read(32).strip()
    who = f"process {number.decode()}" if number.isdigit() else "another process"
    return f"{path} is in use: {who} trains there; wait for it, stop it, or choose another folder"
