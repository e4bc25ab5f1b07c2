"""Files that take long to write: whole or not there, and each run's own until then."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from fusedlm.models.files import whole_file


@contextlib.contextmanager
def large_file(path: Path) -> Iterator[Path]:
    """`whole_file` under a name that no other process writes to; the folder is made where it is missing.

    Two runs at once with the same output would else write into one file. So the last one wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with whole_file(path) as partial:
        if partial == path:  # a pipe, say, which nothing takes the place of
            yield path
            return
        try:
            yield own
            os.replace(own, partial)
        finally:
            own.unlink(missing_ok=True)
