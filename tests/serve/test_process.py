"""`fusedlm serve` as a process of its own, with 32 openai clients, until it is told to stop."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

pytest.importorskip("uvicorn")
openai = pytest.importorskip("openai")

from tests.support.child import environment  # noqa: E402
from tests.support.server import until  # noqa: E402
from tests.support.tiny import save_tiny_model  # noqa: E402

CLIENTS, ENDLESS = 32, 30_000


@dataclass
class Process:
    address: str
    popen: subprocess.Popen[str]

    def client(self) -> openai.OpenAI:
        """For many threads, each with a connection of its own."""
        return openai.OpenAI(
            base_url=f"{self.address}/v1", api_key="unused", max_retries=0, timeout=120
        )

    @property
    def in_flight(self) -> int:
        with urllib.request.urlopen(f"{self.address}/health", timeout=30) as response:
            return json.load(response)["in_flight"]

    def has_stopped(self) -> None:
        out, err = self.popen.communicate(timeout=60)
        assert (self.popen.returncode, out, err) == (0, "stopped\n", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("process") / "tiny", context=2**15)


@contextlib.contextmanager
def started(folder, *options: object) -> Iterator[Process]:
    command = [sys.executable, "-m", "fusedlm.cli", "serve", folder, "--port", 0, "--threads", 1,
               "--max-running", 8, *options]  # fmt: skip
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(),
    ) as popen:  # fmt: skip
        try:
            line = popen.stdout.readline()
            assert line.startswith("tiny at http://127.0.0.1:"), popen.stderr.read()
            yield Process(line.split(" ")[2], popen)
        finally:
            popen.kill()


def ask(client: openai.OpenAI, number: int, **options: object) -> tuple[str, str | None]:
    """(text, finish reason): chats and completions, whole and in streams."""
    stream = number % 2 == 1
    options = {
        "model": "tiny",
        "max_tokens": 20 + number,
        "seed": number,
        "stream": stream,
        **options,
    }
    if number % 4 < 2:
        answer = client.completions.create(prompt="the quick" * (1 + number % 3), **options)
        read = lambda choice: choice.text  # noqa: E731
    else:
        messages = [{"role": "user", "content": f"the fox {number}"}]
        answer = client.chat.completions.create(messages=messages, **options)
        read = lambda choice: (  # noqa: E731
            choice.delta.content if stream else choice.message.content
        )
    parts = [part.choices[0] for part in (answer if stream else [answer])]
    return "".join(read(part) or "" for part in parts), parts[-1].finish_reason


def test_32_clients_get_what_each_gets_alone_also_while_the_server_stops(folder):
    with started(folder) as server, ThreadPoolExecutor(CLIENTS) as pool:
        client, numbers = server.client(), range(CLIENTS)
        alone = [ask(client, number) for number in numbers]
        assert len(set(alone)) == CLIENTS
        for _ in range(2):
            assert list(pool.map(ask, [client] * CLIENTS, numbers)) == alone
        # Until all have come, others keep the engine busy.
        others = client.completions.create(
            model="tiny", prompt="fox", n=8, max_tokens=ENDLESS, temperature=0, stream=True
        )
        next(iter(others))
        together = pool.map(ask, [client] * CLIENTS, numbers)
        until(lambda: server.in_flight == 8 + CLIENTS)
        server.popen.send_signal(signal.SIGTERM)
        others.close()
        assert list(together) == alone
        server.has_stopped()


def test_what_takes_longer_than_the_grace_is_told_that_the_server_stops(folder):
    def outcome(client: openai.OpenAI, number: int) -> object:
        try:
            return ask(client, number, max_tokens=ENDLESS, temperature=0)
        except openai.APIStatusError as error:
            return error.status_code, error.code
        except openai.APIError as error:  # the last event of a stream
            return error.code

    with started(folder, "--grace", 0.2) as server, ThreadPoolExecutor(CLIENTS) as pool:
        outcomes = pool.map(outcome, [server.client()] * CLIENTS, range(CLIENTS))
        until(lambda: server.in_flight == CLIENTS)
        server.popen.send_signal(signal.SIGTERM)
        assert list(outcomes) == [(503, "shutting_down"), "shutting_down"] * (CLIENTS // 2)
        server.has_stopped()
