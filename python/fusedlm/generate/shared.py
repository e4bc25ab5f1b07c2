"""A batch that several threads use: whoever waits for text steps it, for all of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

from .batch import Batch, Job, Options, Piece


class SharedBatch:
    """Locks would not do: a thread that steps again and again would keep others from submitting."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._changed = threading.Condition()
        self._stepping = False
        self._before_next_step = 0  # threads that want to submit or cancel

    def submit(self, prompts: Sequence[list[int]], options: Sequence[Options]) -> list[Job]:
        with self._between_steps():
            return [self._batch.submit(p, o) for p, o in zip(prompts, options, strict=True)]

    def cancel(self, jobs: Sequence[Job]) -> None:
        if all(job.done for job in jobs):
            return
        with self._between_steps():
            for job in jobs:
                self._batch.cancel(job)

    def wait(self, jobs: Sequence[Job]) -> list[Piece]:
        """What is new of each job, as soon as one has something or all are done."""
        while True:
            with self._changed:
                while True:
                    pieces = [job.take() for job in jobs]
                    if all(job.done for job in jobs) or any(p.text or p.tokens for p in pieces):
                        return pieces
                    if not self._stepping and not self._before_next_step:
                        break
                    self._changed.wait()
                self._stepping = True
            try:
                self._batch.step()
            finally:
                with self._changed:
                    self._stepping = False
                    self._changed.notify_all()

    @contextlib.contextmanager
    def _between_steps(self) -> Iterator[None]:
        with self._changed:
            self._before_next_step += 1
            try:
                while self._stepping:
                    self._changed.wait()
                yield
            finally:
                self._before_next_step -= 1
                self._changed.notify_all()
