"""The one time that a request has: to come in, to be answered and to be read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from .errors import timed_out

# Seconds beyond a time that is up, for answers that say so.
LAST_WORDS = 5.0


class Deadline:
    """`seconds` from now, on the event loop's clock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._at = asyncio.get_running_loop().time() + seconds

    @contextlib.asynccontextmanager
    async def limit(self, status: int = 503) -> AsyncIterator[None]:
        """What is awaited in the block becomes an ApiError with this status when time is up."""
        try:
            async with asyncio.timeout_at(self._at):
                yield
        except TimeoutError:
            raise timed_out(self._seconds, status) from None
