"""The progress bar of a run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    _Bar = tqdm[Any]
else:
    _Bar = tqdm  # which is generic for type checkers alone


class ProgressBar(_Bar):
    """tqdm on a clock that nobody sets: its own, the wall clock, may jump by a time server or a person."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if not self.disable:
            self._time = time.monotonic
            self.start_t = self.last_print_t = time.monotonic()
