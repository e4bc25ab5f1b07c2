"""What all endpoints share: the key, the body, errors as JSON, counts and times."""

from __future__ import annotations

import contextlib
import functools
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from .deadline import Deadline
from .errors import ApiError, invalid

if TYPE_CHECKING:
    from .service import Service

logger = logging.getLogger("fusedlm.serve")
Handler = Callable[["Service", Request], Awaitable[Response]]
# As nginx counts requests whose client has gone before the answer; nobody sees it.
CLIENT_GONE = 499


def endpoint(name: str, *, open_to_all: bool = False) -> Callable[[Handler], Any]:
    """A handler that checks the key, answers errors as JSON and is counted as `name`."""

    def wrap(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        @functools.wraps(handler)
        async def call(request: Request) -> Response:
            service: Service = request.app.state.service
            began = time.monotonic()
            request.state.deadline = Deadline(service.settings.timeout)
            try:
                if not open_to_all:
                    _check_key(request, service.settings.api_key)
                response = await handler(service, request)
            except ApiError as error:
                response = error.response()
            except ClientDisconnect:
                response = Response(status_code=CLIENT_GONE)
            except Exception:
                logger.exception("%s %s failed", request.method, request.url.path)
                response = ApiError(500, "The server failed; its log says why").response()
            service.metrics.requests.labels(name, response.status_code).inc()

            def took() -> None:
                service.metrics.seconds.labels(name).observe(time.monotonic() - began)

            if isinstance(response, EventStream):
                response.at_end.callback(took)
            else:
                took()
            return response

        return call

    return wrap


class EventStream(StreamingResponse):
    """Server-sent events; what `at_end` holds is done however it ends, also if the client goes."""

    def __init__(self, events: AsyncIterator[str], at_end: contextlib.ExitStack) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self.at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.at_end:
            await super().__call__(scope, receive, send)


def _check_key(request: Request, key: str | None) -> None:
    if key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(
        given.strip().encode(), key.encode()
    ):  # fmt: skip
        raise ApiError(
            401, "Incorrect or missing API key; send Authorization: Bearer KEY",
            code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip


async def read_json(request: Request, most: int) -> dict[str, Any]:
    """The body as an object; too long or too slow a body is refused before it is read to its end.

    Only application/json is taken: a page of another site can send a browser's user here with a
    form's types, but not with this one without being allowed to.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise invalid(f"Content-Type is {kind or 'missing'}, expected application/json")
    too_long = ApiError(413, f"The body is longer than {most} bytes", code="request_too_large")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > most:
        raise too_long
    body = bytearray()
    async with request.state.deadline.limit(408):
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise too_long
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"The body is not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise invalid(f"The body is {type(values).__name__}, expected an object")
    return values
