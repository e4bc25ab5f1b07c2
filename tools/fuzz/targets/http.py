"""The HTTP endpoint: requests to the ASGI application of `fusedlm serve`, with a small random model behind it.

An input is a request as it goes over the wire: a line, headers, an empty line, the body. It is parsed
leniently, so that damage reaches the application and not the server in front of it, whose work parsing is.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from fusedlm.data.tokenizer import Tokenizer, train_bpe
from fusedlm.generate import LanguageModel
from fusedlm.models import save
from fusedlm.serve.app import create_app
from fusedlm.serve.settings import Settings

from ..case import Broken, Case, Target
from ..mutate import damage_bytes, damage_json
from .models import small_decoder

SECONDS = 5.0  # for one answer; on a machine where others work too
_MOST_NEW = 3
_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
_PATHS = (
    "/", "/health", "/metrics", "/v1/models", "/v1/models/x", "/v1/completions", "/v1/chat/completions",
    "/v1/embeddings", "/v1/models/%00", "/v1//completions", "/../etc/passwd", "/\xff", "", "*",
    "/v1/models/" + "x" * 5000,
)  # fmt: skip
_HEADERS = (
    ("content-type", "application/json; charset=utf-16"), ("content-type", "text/plain"), ("content-type", ""),
    ("content-length", "-1"), ("content-length", "99999999999999999999"), ("content-length", "²"),
    ("content-length", "x"), ("host", "evil.example"), ("host", ""), ("host", "["),
    ("authorization", "Bearer \xff"),
    ("authorization", "Bearer"), ("accept-encoding", "gzip"), ("transfer-encoding", "chunked"), ("x", "y" * 9000),
    ("origin", "null"), ("range", "bytes=0-"), ("content-encoding", "gzip"), ("expect", "100-continue"),
)  # fmt: skip


def _request(path: str, body: Any, method: str = "POST") -> bytes:
    head = f"{method} {path} HTTP/1.1\nhost: localhost\ncontent-type: application/json\n\n"
    return head.encode() + json.dumps(body).encode()


def _damage(random: Random, data: bytes) -> bytes:
    """Mostly the tree of the body; else bytes of it, the line, or headers."""
    head, _, body = data.partition(b"\n\n")
    what = random.random()
    if what < 0.7:
        return head + b"\n\n" + damage_json(random, body)
    if what < 0.78:
        return head + b"\n\n" + damage_bytes(random, body)
    if what < 0.84:
        return damage_bytes(random, head) + b"\n\n" + body
    line, *headers = head.split(b"\n")
    if what < 0.92:
        method = random.choice(("GET", "POST", "HEAD", "OPTIONS", "DELETE", "", "X" * 100))
        query = random.choice(("", "?", "?a=b&a=c", "?%ff%00=", "?" + "a=b&" * 500))
        line = f"{method} {random.choice(_PATHS)}{query} HTTP/1.1".encode("latin-1")
    for _ in range(random.randint(0, 2)):
        name, value = random.choice(_HEADERS)
        headers.insert(random.randrange(len(headers) + 1), f"{name}: {value}".encode())
    return b"\n".join([line, *headers]) + b"\n\n" + body


@cache
def _application() -> tuple[asyncio.Runner, Any, Any]:
    """The loop, the application, and what keeps it going: all end with the process."""
    trained = train_bpe('abc {"a": 1} user', 300)
    tokenizer = Tokenizer(trained._inner, {"chat_template": _TEMPLATE})
    model = small_decoder(vocab_size=tokenizer.vocab_size, context=128)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "small", model, tokenizer)
        language_model = LanguageModel.load(
            Path(folder) / "small", dtype="float32", cache_tokens=1024
        )
    app = create_app(
        language_model, Settings(max_new_tokens=_MOST_NEW, max_body=20_000, timeout=SECONDS)
    )
    runner = asyncio.Runner()
    alive = app.router.lifespan_context(app)
    runner.run(alive.__aenter__())
    return runner, app, alive


def _ask(path: Path) -> None:
    runner, app, _ = _application()
    scope, body = _scope(path.read_bytes())
    status, headers, answer = runner.run(_answer(app, scope, body))
    if status >= 500 and status != 501:
        raise Broken(f"status {status}: {answer[:200]!r}")
    kind = dict(headers).get(b"content-type", b"")
    if kind.startswith(b"application/json") and answer:
        values = json.loads(answer, parse_constant=_refuse)
        if status >= 400 and set(values) != {"error"}:
            raise Broken(f"status {status} with the body {answer[:200]!r}")


def _refuse(constant: str) -> None:
    raise Broken(f"the answer holds {constant}, which is no JSON")


def _scope(data: bytes) -> tuple[dict[str, Any], bytes]:
    head, _, body = data.partition(b"\n\n")
    line, *lines = head.split(b"\n")
    method, _, rest = line.partition(b" ")
    target = rest.rpartition(b" ")[0] or rest
    path, _, query = target.partition(b"?")
    named = (header.partition(b":") for header in lines)
    headers = [(name.strip().lower(), value.strip()) for name, _, value in named]
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
        "method": method.decode("latin-1").upper(), "path": path.decode("utf-8", "replace"), "raw_path": path,
        "query_string": query, "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
        "root_path": "",
    }, body  # fmt: skip


async def _answer(app: Any, scope: dict, body: bytes) -> tuple[int, list, bytes]:
    parts = [body[: len(body) // 2], body[len(body) // 2 :]]
    sent: list[dict[str, Any]] = []
    over = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if parts:
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    try:
        async with asyncio.timeout(SECONDS):
            await app(scope, receive, send)
    except TimeoutError:
        raise Broken(f"no answer in {SECONDS} s") from None
    finally:
        over.set()
    if not sent or sent[0]["type"] != "http.response.start":
        raise Broken("no answer")
    return sent[0]["status"], sent[0]["headers"], b"".join(m.get("body", b"") for m in sent[1:])


def _cases() -> list[Case]:
    sampling = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1, "seed": 7, "n": 2,
        "stop": ["x"], "stream": False, "max_tokens": 2, "user": "me", "guess_tokens": 2,
    }  # fmt: skip
    chat = {"model": "small", "messages": [{"role": "system", "content": "abc"},
            {"role": "user", "content": [{"type": "text", "text": "a"}]}]}  # fmt: skip
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 1}},
        "required": ["a"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    requests = {
        "completion": _request("/v1/completions", {"prompt": "abc", **sampling, "logprobs": 0}),
        "tokens": _request("/v1/completions", {"prompt": [[1, 2], [3]], "max_tokens": 1}),
        "completion-stream": _request("/v1/completions", {"prompt": ["a", "b"], "stream": True,
                                      "stream_options": {"include_usage": True}}),
        "chat": _request("/v1/chat/completions", {**chat, **sampling, "logprobs": True}),
        "chat-stream": _request("/v1/chat/completions", {**chat, "stream": True}),
        "schema": _request("/v1/chat/completions", {**chat, "max_tokens": 2, "response_format": form}),
        "regex": _request("/v1/completions", {"prompt": "a", "max_tokens": 2, "regex": "[ab]{1,3}(c|d)*"}),
        "grammar": _request("/v1/completions", {"prompt": "a", "max_tokens": 2,
                            "grammar": 'start: "a" b+\nb: /[bc]/'}),
        "models": _request("/v1/models/small?x=y", {}, "GET"),
    }  # fmt: skip
    return [
        Case(name, "request.http", data, _damage, _ask, names_file=False)
        for name, data in requests.items()
    ]


TARGET = Target("http", _cases, room=512, threads=True)
