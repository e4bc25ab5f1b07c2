"""Too many requests, slow ones, clients that leave, and a server that is told to stop."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("uvicorn")
openai = pytest.importorskip("openai")

from tests.support.fake_engine import FakeGenerator, Gate, fake_language_model  # noqa: E402
from tests.support.server import serving, until  # noqa: E402

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}


class Held:
    """A model whose steps wait at a gate, and its generator."""

    def __init__(self, **options) -> None:
        self.gate = Gate()
        self.generator = FakeGenerator(before_step=self.gate, **options)
        self.model = fake_language_model(lambda: self.generator)


def test_beyond_the_queue_requests_are_429_and_say_when_to_come_again():
    held = Held(most_running=1)
    with serving(held.model, max_running=1, max_waiting=1) as server, ThreadPoolExecutor() as pool:
        client = server.client()
        first = [pool.submit(client.completions.create, model="fake", prompt="x") for _ in "ab"]
        until(lambda: server.service.admission.in_flight == 2)
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model="fake", prompt="x")
        assert caught.value.code == "queue_full"
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        held.gate.open()
        assert [f.result().choices[0].text for f in first] == ["abcdefghijklmnop"] * 2
        assert client.completions.create(model="fake", prompt="x").choices[0].text
        assert server.metric("fusedlm_requests_total", endpoint="completions", status="429") == 1


def test_a_request_that_takes_too_long_is_503_and_leaves_the_engine():
    held = Held()
    with serving(held.model, timeout=0.2) as server:
        status, error = server.error("/v1/completions", {"prompt": "x"})
        assert status == 503 and error["code"] == "timeout"
        assert "longer than 0.2 seconds" in error["message"]
        with pytest.raises(openai.APIError, match=r"longer than 0\.2 seconds"):
            list(server.client().chat.completions.create(**CHAT, stream=True))
        held.gate.open()
        until(lambda: held.generator.cancelled == [0, 1])
        assert server.service.admission.in_flight == 0


def test_embeddings_that_take_too_long_are_503_and_the_next_wait_for_their_end():
    ends, running = threading.Event(), []

    class Slow:
        name = "slow"

        def embed(self, texts):
            running.append(texts)
            assert ends.wait(30)
            return [[1.0]] * len(texts), 1

    with serving(Held().model, Slow(), timeout=1.5) as server:
        for _ in range(2):
            status, error = server.error("/v1/embeddings", {"input": "a"})
            assert status == 503 and error["code"] == "timeout"
        assert running == [["a"]] and server.service.admission.in_flight == 0
        ends.set()
        assert server.send("/v1/embeddings", {"input": "b"})[0] == 200
        assert running == [["a"], ["b"]]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_request(stream):
    held = Held()
    with serving(held.model) as server:
        body = b'{"prompt": "x", "max_tokens": 60, "stream": %s}' % (
            b"true" if stream else b"false"
        )
        host, port = server.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            assert held.gate.reached.wait(20)
        until(lambda: server.service.admission.in_flight == 0)
        held.gate.open()
        until(lambda: held.generator.cancelled == [0])
        assert server.client().completions.create(model="fake", prompt="x").choices[0].text


def test_closing_a_stream_cancels_its_request():
    slow = FakeGenerator(before_step=lambda: time.sleep(0.002), next_token=lambda prompt, at: 97)
    model = fake_language_model(lambda: slow)
    with serving(model) as server:
        stream = server.client().completions.create(
            model="fake", prompt="x", max_tokens=60, stream=True
        )
        assert next(iter(stream)).choices[0].text == "a"
        stream.close()
        until(lambda: server.service.admission.in_flight == 0)
        until(lambda: slow.cancelled == [0] or slow.idle)


def test_a_server_that_stops_lets_requests_end():
    held = Held()
    with serving(held.model, grace=30.0) as server, ThreadPoolExecutor() as pool:
        answer = pool.submit(server.client().completions.create, model="fake", prompt="x")
        assert held.gate.reached.wait(20)
        server.server.should_exit = True
        until(lambda: server.service.admission.draining)
        held.gate.open()
        assert answer.result().choices[0].text == "abcdefghijklmnop"
        server.thread.join(20)
        assert not server.thread.is_alive()


def test_a_server_that_stops_cancels_what_takes_longer_than_its_grace():
    endless = FakeGenerator(before_step=lambda: time.sleep(0.05), next_token=lambda prompt, at: 97)
    model = fake_language_model(lambda: endless)
    with serving(model, grace=0.1) as server, ThreadPoolExecutor() as pool:
        answer = pool.submit(server.error, "/v1/completions", {"prompt": "x", "max_tokens": 60})
        until(lambda: not endless.idle)
        server.server.should_exit = True
        status, error = answer.result()
        assert status == 503 and error["code"] == "shutting_down"
        server.thread.join(20)
        assert not server.thread.is_alive() and endless.cancelled == [0]


def test_requests_are_refused_while_the_server_stops():
    held = Held()
    with serving(held.model) as server:
        server.service.drain()
        assert server.error("/v1/completions", {"prompt": "x"})[1]["code"] == "shutting_down"
        assert server.send("/health")[0] == 503
        held.gate.open()


def test_the_engines_thread_sleeps_where_there_is_nothing_to_do():
    steps = []
    generator = FakeGenerator(before_step=lambda: steps.append(threading.get_ident()))
    with serving(fake_language_model(lambda: generator)) as server:
        server.client().completions.create(model="fake", prompt="x", max_tokens=3)
        done = len(steps)
        server.send("/health")
        assert len(steps) == done <= 5 and len(set(steps)) == 1


def test_a_text_with_a_backlog_lets_others_have_their_turn():
    from fusedlm.generate import Options
    from fusedlm.generate.batch import Piece
    from fusedlm.serve.deadline import Deadline
    from fusedlm.serve.metrics import Metrics
    from fusedlm.serve.requests import TextRequest
    from fusedlm.serve.texts import Texts

    class AtOnce:
        def submit(self, tickets):
            for number in range(100):
                tickets[0].put(Piece("a", [97], [0.0], "stop" if number == 99 else None))

        def cancel(self, tickets):
            pass

    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def read() -> None:
        request = TextRequest([[1]], 1, Options(), True, False, False)
        metrics = Metrics(lambda: {}, "fake", "0")
        others = asyncio.create_task(other())
        (text,) = await Texts(request, AtOnce(), Deadline(30.0), metrics).collect()
        assert text.text == "a" * 100
        others.cancel()

    asyncio.run(read())
    assert turns >= 100


def test_settings_that_do_not_fit_are_named():
    from fusedlm.serve import Settings

    for field, value in (
        ("max_running", 0),
        ("timeout", -1.0),
        ("port", -1),
        ("port", 65536),
        ("max_connections", 0),
        ("api_key", "schl\u00fcssel"),
        ("api_key", "secret\n"),
        ("api_key", ""),
    ):
        with pytest.raises(ValueError, match=f"serve: {field} is") as caught:
            Settings(**{field: value})
        assert "secret" not in str(caught.value)
    assert Settings(host="::1").loopback and not Settings(host="0.0.0.0").loopback
