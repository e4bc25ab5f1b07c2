"""HTTP connections as uvicorn has them, with an end for those that no request keeps to its time."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from .deadline import LAST_WORDS
from .errors import ApiError
from .service import Service


class Connection(H11Protocol):
    """Cut off where nothing ends in time: the head of a request, its body, or an answer's reading.

    Requests have the same time by their own deadline, and say so; this is for what they cannot
    see: heads that never end, and answers that the client does not take. Connections beyond
    `most_connections` are answered 503, those beyond twice as many are closed without a word.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._service: Service = self.config.app.state.service  # type: ignore[union-attr]
        self._seconds = self._service.settings.timeout + LAST_WORDS
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        most = self._service.settings.most_connections
        if len(self.connections) > most:
            self._service.metrics.refused_connections.inc()
            self._seconds = LAST_WORDS
            self.app = ApiError(
                503, f"{most} connections are open already; try again later",
                code="too_many_connections", headers={"Retry-After": "1", "Connection": "close"},
            ).response()  # fmt: skip
        if len(self.connections) > 2 * most:
            transport.abort()
        else:
            self._begin()

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:  # the head of a request is there
            self._begin()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(self._seconds, self.transport.abort)
