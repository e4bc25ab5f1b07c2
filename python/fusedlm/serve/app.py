"""The routes: OpenAI's endpoints, health, metrics and the chat page."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from fusedlm.generate import LanguageModel

from . import metrics
from .bodies import Bodies
from .embeddings import Embedder, embeddings
from .endpoint import CLIENT_GONE, EventStream, endpoint, read_json
from .errors import ApiError
from .requests import TextRequest, read_chat, read_completion
from .service import Service
from .settings import Settings
from .texts import Texts, unless_gone


def create_app(
    model: LanguageModel, settings: Settings | None = None, embedder: Embedder | None = None
) -> Starlette:
    """The ASGI application. The engine's thread lives from the server's start to its end."""
    settings = settings or Settings()
    service = Service(model, settings, embedder)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.worker.start()
        try:
            yield
        finally:
            service.drain()
            service.worker.stop()

    routes = [
        Route("/", page),
        Route("/health", health),
        Route("/metrics", show_metrics),
        Route("/v1/models", list_models),
        Route("/v1/models/{name:path}", show_model),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
    ]
    app = Starlette(
        routes=routes, lifespan=lifespan, middleware=_middleware(settings),
        exception_handlers={HTTPException: _http_error},
    )  # fmt: skip
    app.state.service = service
    return app


def _middleware(settings: Settings) -> list[Middleware]:
    """On loopback only loopback's names are answered to: a page of another site whose name suddenly
    points here (DNS rebinding) gets nothing."""
    if not settings.loopback:
        return []
    hosts = ["localhost", "127.0.0.1", "::1", "[::1]", settings.host, *settings.hosts]
    return [Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)]


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = {404: "There is no", 405: "The wrong method for"}.get(error.status_code, error.detail)
    message = f"{what} {request.method} {request.url.path}"
    return ApiError(error.status_code, message, headers=error.headers).response()


@endpoint("completions")
async def completions(service: Service, request: Request) -> Response:
    return await _answer(service, request, read_completion, chat=False)


@endpoint("chat_completions")
async def chat_completions(service: Service, request: Request) -> Response:
    return await _answer(service, request, read_chat, chat=True)


async def _answer(
    service: Service, request: Request, read: Callable[..., TextRequest], *, chat: bool
) -> Response:
    body = await read_json(request, service.settings.max_body)
    service.check_model(body.get("model"), service.model.name)
    # Tokenizing and compiling a grammar take long enough to hold up others.
    async with request.state.deadline.limit():
        asked = await asyncio.to_thread(read, body, service.model, service.settings)
    stack = contextlib.ExitStack()
    stack.enter_context(service.admission.enter(len(asked.texts)))
    bodies = Bodies(asked, chat, service.model.name, service.model.vocabulary.tokenizer)
    texts = Texts(asked, service.worker, request.state.deadline, service.metrics)
    if asked.stream:
        events = _events(asked, bodies, texts, len(asked.texts) if chat else 0)
        stack.callback(texts.cancel)
        return EventStream(events, stack)
    with stack:
        result = await unless_gone(request, asyncio.create_task(texts.collect()))
    if result is None:
        return Response(status_code=CLIENT_GONE)
    return JSONResponse(bodies.whole(result))


async def _events(
    asked: TextRequest, bodies: Bodies, texts: Texts, speakers: int
) -> AsyncIterator[str]:
    try:
        for index in range(speakers):
            yield _event(bodies.first(index))
        async with contextlib.aclosing(texts.pieces()) as pieces:
            async for index, piece in pieces:
                if piece.text or piece.finish is not None or asked.logprobs:
                    yield _event(bodies.piece(index, piece))
                else:  # the tokens so far are part of a character
                    bodies.count(piece)
        if asked.include_usage:
            yield _event(bodies.usage())
        yield "data: [DONE]\n\n"
    except ApiError as error:
        yield _event(error.body())


def _event(values: dict[str, Any]) -> str:
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n"


@endpoint("models")
async def list_models(service: Service, request: Request) -> Response:
    return JSONResponse({"object": "list", "data": service.models()})


@endpoint("models")
async def show_model(service: Service, request: Request) -> Response:
    name = request.path_params["name"]
    for model in service.models():
        if model["id"] == name:
            return JSONResponse(model)
    raise ApiError(404, f"The model {name!r} does not exist here", code="model_not_found")


@endpoint("health", open_to_all=True)
async def health(service: Service, request: Request) -> Response:
    well = service.worker.alive and not service.admission.draining
    state = {
        "status": "ok" if well else "stopping", "in_flight": service.admission.in_flight,
        "capacity": service.settings.capacity,
    }  # fmt: skip
    return JSONResponse(state, 200 if well else 503)


@endpoint("metrics")
async def show_metrics(service: Service, request: Request) -> Response:
    return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)


@endpoint("page", open_to_all=True)
async def page(service: Service, request: Request) -> Response:
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})


def _policy(html: str) -> str:
    """Nothing runs but the page's own script and style, and nothing is fetched from elsewhere."""

    def source(tag: str) -> str:
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; script-src 'sha256-{source('script')}'; "
        f"style-src 'sha256-{source('style')}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


_PAGE = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
_POLICY = _policy(_PAGE)
