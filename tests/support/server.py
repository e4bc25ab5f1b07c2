"""A server on a free loopback port, in a thread of the test's process."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fusedlm.serve import Settings, create_app
from fusedlm.serve.run import Server, socket_of


@dataclass
class Running:
    address: str
    server: Server
    thread: threading.Thread
    service: Any

    def client(self, key: str = "unused", **options: Any):
        import openai

        options = {"max_retries": 0, "timeout": 60, **options}
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=key, **options)

    def send(
        self, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body); `body` is sent as JSON, or as it is where it is bytes."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if data is not None:
            headers = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(self.address + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, dict(response.headers), response.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def error(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        status, _, answer = self.send(path, body, **headers)
        return status, json.loads(answer)["error"]

    def metric(self, name: str, **labels: str) -> float:
        """Of one line of /metrics, 0 where it is not there yet."""
        wanted = name
        if labels:
            wanted += "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}"
        for line in self.send("/metrics")[2].decode().splitlines():
            key, _, value = line.rpartition(" ")
            if key == wanted:
                return float(value)
        return 0.0

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)


@contextlib.contextmanager
def serving(model: Any, embedder: Any = None, **settings: Any) -> Iterator[Running]:
    """Runs a server while the block does; it must have stopped by itself afterwards."""
    chosen = Settings(**{"port": 0, "grace": 5.0, **settings})
    app = create_app(model, chosen, embedder)
    started = threading.Event()
    address: list[str] = []

    def on_start(where: str) -> None:
        address.append(where)
        started.set()

    listening = socket_of(chosen)
    server = Server(app, chosen, on_start)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    assert started.wait(30), "the server has not started"
    running = Running(address[0], server, thread, app.state.service)
    try:
        yield running
    finally:
        running.stop()
        listening.close()
    assert not thread.is_alive() and not running.service.worker.alive


def until(condition: Any, seconds: float = 20.0) -> None:
    """Returns once condition() is true; fails after `seconds`."""
    waited = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        waited.wait(0.01)
    raise AssertionError("it has not become true in time")
