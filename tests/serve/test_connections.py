"""Clients that send half of a request, do not read their answer, or come in crowds: raw sockets."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest

pytest.importorskip("uvicorn")

from tests.support.fake_engine import FakeGenerator, fake_language_model
from tests.support.server import Running, serving, until

HEAD = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class Letters:
    name = "letters"

    def embed(self, texts):
        return [[1.0]] * len(texts), len(texts)


@pytest.fixture(autouse=True)
def few_last_words(monkeypatch):
    monkeypatch.setattr("fusedlm.serve.connection.LAST_WORDS", 0.5)


@contextlib.contextmanager
def connected(server: Running, small: bool = False) -> Iterator[socket.socket]:
    """`small`: the two ends keep a few kilobytes of what is not read."""
    if small:  # connections have what the listening socket has
        listening = server.server.servers[0].sockets[0]
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    host, port = server.address.removeprefix("http://").split(":")
    with socket.socket() as connection:
        connection.settimeout(20)
        if small:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        yield connection


def post(path: str, body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    return HEAD % path.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data


def all_of(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def is_cut_off(connection: socket.socket) -> bool:
    try:
        return all_of(connection) == b""
    except ConnectionResetError:
        return True


def is_served(server: Running) -> bool:
    answer = server.client().completions.create(model="fake", prompt="x", max_tokens=3)
    return answer.choices[0].text == "abc"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/embeddings"])
def test_half_a_body_is_408_and_ends_the_connection(path):
    with serving(fake_language_model(), Letters(), timeout=1.0) as server:
        with connected(server) as slow:
            slow.sendall(post(path, {"prompt": "x", "input": "x"})[:-3])
            assert is_served(server)
            head, _, body = all_of(slow).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ") and b"connection: close" in head.lower()
        error = json.loads(body)["error"]
        assert error["code"] == "timeout" and "longer than 1 seconds" in error["message"]
        name = path.removeprefix("/v1/").replace("/", "_")
        assert server.metric("fusedlm_requests_total", endpoint=name, status="408") == 1
        assert server.service.admission.in_flight == 0 and is_served(server)


def test_a_stream_that_is_never_read_frees_its_slot():
    generator = FakeGenerator()
    model = fake_language_model(lambda: generator, context=200_000)
    with serving(model, timeout=2.0, max_running=2, max_waiting=0) as server:
        with connected(server, small=True) as stalled:
            body = {"prompt": "x", "max_tokens": 150_000, "stream": True}
            stalled.sendall(post("/v1/completions", body))
            until(lambda: server.service.admission.in_flight == 1)
            assert is_served(server)
            until(lambda: server.service.admission.in_flight == 0)
            until(lambda: not server.server.server_state.connections)
        until(lambda: generator.idle)
        assert generator.cancelled == [0] and is_served(server)


def test_a_whole_answer_that_is_never_read_frees_its_connection():
    with serving(fake_language_model(), Letters(), timeout=2.0) as server:
        with connected(server, small=True) as stalled:
            stalled.sendall(post("/v1/embeddings", {"input": ["x"] * 2048}))
            until(lambda: server.server.server_state.total_requests == 1)
            assert server.server.server_state.connections and is_served(server)
            until(lambda: not server.server.server_state.connections)


@pytest.mark.parametrize("begun", [b"", b"GET /health HTTP/1.1\r\nHost: "])
def test_a_request_that_never_begins_ends_its_connection(begun):
    with serving(fake_language_model(), timeout=0.5) as server:
        with connected(server) as silent:
            silent.sendall(begun)
            assert is_cut_off(silent)
        with connected(server) as silent:  # after a request that was answered
            silent.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + begun)
            assert all_of(silent).startswith(b"HTTP/1.1 200 ")


def test_connections_beyond_the_most_are_503_and_beyond_twice_as_many_closed(monkeypatch):
    monkeypatch.setattr("fusedlm.serve.connection.LAST_WORDS", 60)  # nothing ends by its time
    with serving(fake_language_model(), max_connections=2) as server:
        with connected(server) as first, connected(server), connected(server) as third:
            third.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head, _, body = all_of(third).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in head.lower()
            assert json.loads(body)["error"]["code"] == "too_many_connections"
            with connected(server), connected(server), connected(server) as sixth:
                assert is_cut_off(sixth)
            first.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert first.recv(100).startswith(b"HTTP/1.1 200 ")
        until(lambda: not server.server.server_state.connections)
        assert is_served(server)
        assert server.metric("fusedlm_refused_connections_total") == 4


def test_a_server_that_stops_does_not_wait_for_what_never_comes(capsys):
    with serving(fake_language_model(), grace=0.0) as server:
        with connected(server) as slow:
            slow.sendall(post("/v1/completions", {"prompt": "x"})[:-3])
            until(lambda: server.server.server_state.tasks)
            server.server.should_exit = True
            assert is_cut_off(slow)
            server.thread.join(20)
            assert not server.thread.is_alive()
    assert capsys.readouterr().err == ""
