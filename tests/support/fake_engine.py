"""Stands for the engine's generator where a test wants it slow, stuck or broken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fusedlm.generate import ChatTemplate, LanguageModel, Vocabulary
from tests.support.small import ByteTokenizer

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


class FakeGenerator:
    """One token a step for up to most_running requests: by default the letters a, b, c, ...

    before_step may wait or raise; `cancelled` holds the requests that were.
    """

    def __init__(
        self, most_running: int = 16, *, before_step: Callable[[], None] = lambda: None,
        next_token: Callable[[list[int], int], int] = lambda prompt, at: ord("a") + at % 26,
    ) -> None:  # fmt: skip
        self.most_running, self.before_step, self.next_token = (
            most_running, before_step, next_token,
        )  # fmt: skip
        self.requests: dict[int, dict[str, Any]] = {}
        self.submitted: list[dict[str, Any]] = []
        self.cancelled: list[int] = []
        self.stats = dict.fromkeys(
            ("waiting", "running", "prompt_tokens", "reused_tokens", "new_tokens",
             "guessed_tokens", "accepted_tokens"), 0,
        )  # fmt: skip

    def submit(self, prompt: list[int], **options: Any) -> int:
        number = len(self.submitted)
        self.requests[number] = {"prompt": prompt, "new": 0, **options}
        self.submitted.append(self.requests[number])
        return number

    def cancel(self, request: int) -> None:
        if self.requests.pop(request, None) is not None:
            self.cancelled.append(request)

    @property
    def idle(self) -> bool:
        return not self.requests

    def step(self) -> list[SimpleNamespace]:
        self.before_step()
        return [self._advance(n, r) for n, r in list(self.requests.items())[: self.most_running]]

    def _advance(self, number: int, request: dict[str, Any]) -> SimpleNamespace:
        token = self.next_token(request["prompt"], request["new"])
        request["new"] += 1
        self.stats["new_tokens"] += 1
        ends = token in request["stop_ids"]
        end = "stop" if ends else None
        if not ends and request["new"] == request["max_new_tokens"]:
            end = "length"
        if end is not None:
            del self.requests[number]
        new = [] if ends else [token]
        return SimpleNamespace(request=number, tokens=new, log_probs=[-0.5] * len(new), end=end)


def fake_language_model(
    make: Callable[[], FakeGenerator] = FakeGenerator, context: int = 64
) -> LanguageModel:
    """Says the alphabet; one token a byte, 256 ends a text."""
    shape = SimpleNamespace(config={"context": context, "vocab_size": 257, "eos_ids": [256]})
    vocabulary = Vocabulary(ByteTokenizer(), template=ChatTemplate(TEMPLATE))
    return LanguageModel(shape, vocabulary, name="fake", make_generator=make)


class Gate:
    """Steps wait here until `open`; `reached` is set once one does."""

    def __init__(self) -> None:
        self.reached, self._open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        self._open.wait(30)

    def open(self) -> None:
        self._open.set()
