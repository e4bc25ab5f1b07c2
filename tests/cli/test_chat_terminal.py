"""fusedlm chat on a terminal, as somebody types there."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.child import environment
from tests.support.tiny import save_tiny_model

pty = pytest.importorskip("pty")

CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """The end of a pseudo-terminal at which a person sits."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seen = ""

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def reads(self, text: str, seconds: float = 60.0) -> str:
        """All that has come since the last call, once `text` is in it."""
        end = time.monotonic() + seconds
        while text not in self._seen:
            left = end - time.monotonic()
            assert left > 0 and select.select([self._descriptor], [], [], left)[0], self._seen
            self._seen += os.read(self._descriptor, 4096).decode(errors="replace")
        at = self._seen.index(text) + len(text)
        seen, self._seen = self._seen[:at], self._seen[at:]
        return seen

    def reads_any(self, seconds: float = 60.0) -> None:
        """Until something has come since the last call."""
        assert self._seen or select.select([self._descriptor], [], [], seconds)[0]


@contextlib.contextmanager
def chatting(*arguments: object) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    """`fusedlm chat` whose terminal is this one: Ctrl-C there is its SIGINT."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "fusedlm.cli", "chat", *map(str, arguments)]
    attach = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); " \
        "os.execv(sys.argv[1], sys.argv[1:])"  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", attach, *command], stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, env=environment(TERM="dumb"),
    ) as process:  # fmt: skip
        os.close(theirs)
        try:
            yield Terminal(ours), process
        finally:
            process.kill()
            os.close(ours)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("chat") / "tiny", context=2**15)


def test_a_conversation_on_a_terminal(folder, tmp_path):
    """Ctrl-C ends an answer, then a line, and Ctrl-D the chat."""
    options = ("--temperature", 0, "--max-new-tokens", 20_000, "--threads", 1)
    with chatting(folder, *options) as (terminal, process):
        assert "tiny, 32,768 tokens of context. /help lists commands." in terminal.reads("> ")
        terminal.type("the quick\r")
        terminal.reads("the quick\r\n")
        terminal.reads_any()  # of the answer: just after its echo, a line may still be input()'s to drop
        terminal.type(CTRL_C)
        terminal.reads(" [stopped]\r\n> ")

        terminal.type("not sent")
        terminal.reads("not sent")
        terminal.type(CTRL_C)
        terminal.reads("(/quit or Ctrl-D ends the chat)\r\n> ")
        file = tmp_path / "chat.json"
        terminal.type(f"/save {file}\r")
        terminal.reads(f"2 messages are in {file}.\r\n> ")
        question, answer = json.loads(file.read_text())
        assert question == {"role": "user", "content": "the quick"} and answer["content"]
        terminal.type(CTRL_D)
        assert process.wait(60) == 0


def test_without_a_terminal_ctrl_c_ends_the_chat(folder):
    command = [sys.executable, "-m", "fusedlm.cli", "chat", str(folder), "--max-new-tokens", "4"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    ) as process:  # fmt: skip
        process.stdin.write(b"the quick\n")
        process.stdin.flush()
        assert process.stdout.readline()

        try:
            for _ in range(30):
                process.send_signal(signal.SIGINT)  # one that comes during the answer only stops it
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(2)
                    break
        finally:
            process.kill()
    assert process.returncode == 130
