"""Runs the server until it is told to stop, then lets requests end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette

from fusedlm.generate import LanguageModel

from .app import create_app
from .connection import Connection
from .deadline import LAST_WORDS
from .embeddings import Embedder
from .service import Service
from .settings import Settings


class Server(uvicorn.Server):
    """On SIGINT or SIGTERM no request is taken any more; those under way have `grace` seconds, then
    they are cancelled; what a client then does not send or read is cut off. A second SIGINT ends
    everything at once."""

    def __init__(self, app: Starlette, settings: Settings, on_start: Callable[[str], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app, host=settings.host, port=settings.port, lifespan="on", log_level="warning",
                access_log=False, ws="none", server_header=False, loop="asyncio", http=Connection,
                timeout_graceful_shutdown=int(settings.grace + LAST_WORDS),
            )
        )  # fmt: skip
        self._service: Service = app.state.service
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_start(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.drain()
        loop = asyncio.get_running_loop()
        grace = self._service.settings.grace
        last_calls = [
            loop.call_later(grace, self._service.worker.cancel_all),
            # Before uvicorn's own end, which takes what is left for a fault of the application.
            loop.call_later(grace + LAST_WORDS - 1, self._cut_off),
        ]
        await super().shutdown(sockets)
        for call in last_calls:
            call.cancel()

    def _cut_off(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def serve(
    model: LanguageModel, settings: Settings | None = None, embedder: Embedder | None = None,
    *, on_start: Callable[[str], None] = lambda address: None,
) -> None:  # fmt: skip
    """Serves until SIGINT or SIGTERM. on_start gets the address, its port chosen where it was 0.

    Raises OSError where the port is taken.
    """
    settings = settings or Settings()
    if not settings.loopback and settings.api_key is None:
        logging.getLogger("fusedlm.serve").warning(
            "%s is reachable from other machines and there is no API key: whoever reaches it can "
            "use it",
            settings.host,
        )
    with socket_of(settings) as listening, _signals_kept():
        Server(create_app(model, settings, embedder), settings, on_start).run([listening])


def socket_of(settings: Settings) -> socket.socket:
    """Listens already, so that a port that is taken is an error of our own."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.port), family=family)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """uvicorn raises the signal that stopped it again at its end, which is no error here."""
    kinds = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(kind, lambda *_: None) for kind in kinds]
    except ValueError:  # not the main thread, where no signals come
        yield
        return
    try:
        yield
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
