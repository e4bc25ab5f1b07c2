"""Carrying out a text request: admission, waiting for pieces, time-outs, disconnects."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field

from starlette.requests import Request

from fusedlm.generate.batch import Piece

from .deadline import Deadline
from .errors import ApiError
from .metrics import Metrics
from .requests import TextRequest
from .settings import Settings
from .worker import Ticket, Worker


@dataclass
class Text:
    """One choice, put together again."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finish: str | None = None

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.tokens += piece.tokens
        self.log_probs += piece.log_probs
        self.finish = piece.finish


class Admission:
    """Counts the texts in flight and turns away what is beyond the server's capacity."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._in_flight = 0
        self._recent = 1.0  # seconds that requests took lately
        self.draining = False

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @contextlib.contextmanager
    def enter(self, texts: int) -> Iterator[None]:
        if self.draining:
            raise ApiError(503, "The server is stopping", code="shutting_down")
        if self._in_flight + texts > self._settings.capacity:
            raise ApiError(
                429, f"{self._in_flight} texts are under way or waiting already; try again later",
                code="queue_full", headers={"Retry-After": str(self._retry_after())},
            )  # fmt: skip
        began = time.monotonic()
        self._change(texts)
        try:
            yield
        finally:
            self._change(-texts)
            self._recent += 0.2 * (time.monotonic() - began - self._recent)

    def _retry_after(self) -> int:
        rounds = self._in_flight / self._settings.max_running
        return max(1, min(60, math.ceil(self._recent * rounds / 2)))

    def _change(self, texts: int) -> None:
        self._in_flight += texts
        self._metrics.in_flight.set(self._in_flight)


class Texts:
    """The texts of one request. Iterate over `pieces`; leaving it cancels what has not ended."""

    def __init__(
        self, request: TextRequest, worker: Worker, deadline: Deadline, metrics: Metrics
    ) -> None:
        self._queue: asyncio.Queue[tuple[int, Piece | Exception]] = asyncio.Queue()
        self._tickets = [
            Ticket(index, prompt, options, self._queue)
            for index, (prompt, options) in enumerate(request.texts)
        ]
        self._worker, self._deadline, self._metrics = worker, deadline, metrics
        self._began = time.monotonic()

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """(choice, piece) as they come. Raises ApiError at the time-out and where a text is lost."""
        left = set(range(len(self._tickets)))
        waiting = set(left)
        self._worker.submit(self._tickets)
        try:
            while left:
                index, piece = await self._next()
                if index in waiting:
                    waiting.discard(index)
                    self._metrics.first_token.observe(time.monotonic() - self._began)
                if piece.finish is not None:
                    left.discard(index)
                    self._metrics.finished.labels(piece.finish).inc()
                if piece.finish == "cancelled":  # by nobody here: the server is stopping
                    raise ApiError(503, "The server is stopping", code="shutting_down")
                yield index, piece
        finally:
            self.cancel()
            for _ in left:
                self._metrics.finished.labels("cancelled").inc()

    def cancel(self) -> None:
        self._worker.cancel(self._tickets)

    async def collect(self) -> list[Text]:
        texts = [Text() for _ in self._tickets]
        async with contextlib.aclosing(self.pieces()) as pieces:
            async for index, piece in pieces:
                texts[index].add(piece)
        return texts

    async def _next(self) -> tuple[int, Piece]:
        async with self._deadline.limit():
            # One with a backlog, since its client read slowly, must not keep the loop to itself:
            # others have their turn, and it hears that its client has gone.
            await asyncio.sleep(0)
            index, item = await self._queue.get()
        if isinstance(item, ValueError):
            raise ApiError(400, str(item))
        if isinstance(item, Exception):
            raise ApiError(503, "The engine failed; the request is lost", code="engine_failed")
        return index, item


async def unless_gone(request: Request, work: asyncio.Task[list[Text]]) -> list[Text] | None:
    """The result of `work`, or None where the client goes away before: then it is cancelled."""
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        return None
    finally:
        for task in (gone, work):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ApiError):
                await task


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
