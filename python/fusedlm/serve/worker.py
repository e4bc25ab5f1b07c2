"""The one thread that owns the engine: handlers hand it prompts and get pieces of text back.

Handlers run on the event loop and never wait for a step; the thread never touches the loop but by
`call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

from fusedlm.generate import Job, LanguageModel, Options
from fusedlm.generate.batch import Piece

logger = logging.getLogger("fusedlm.serve")


class EngineFailed(Exception):
    """A step went wrong, and the texts on their way are lost."""


class Ticket:
    """One text on its way. (index, piece or error) come into `queue`, the last one with an end."""

    def __init__(
        self, index: int, prompt: list[int], options: Options,
        queue: asyncio.Queue[tuple[int, Piece | Exception]],
    ) -> None:  # fmt: skip
        self.index, self.prompt, self.options, self.queue = index, prompt, options, queue
        self.loop = asyncio.get_running_loop()
        self.job: Job | None = None

    def put(self, item: Piece | Exception) -> None:
        self.queue.put_nowait((self.index, item))


class Worker:
    """Steps the engine while there are tickets, and sleeps otherwise."""

    def __init__(self, model: LanguageModel) -> None:
        import torch

        self._model = model
        self._threads = torch.get_num_threads()
        self._wake = threading.Condition()
        self._inbox: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._tickets: dict[int, Ticket] = {}  # by the id of their job; the thread's own
        self.stats = dict(model.batch.stats)  # of the engine, as of the last step
        self._thread = threading.Thread(target=self._run, name="fusedlm-engine", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Cancels what is left and waits for the thread to end."""
        self._post(self._cancel_all, stopping=True)
        self._thread.join()

    def submit(self, tickets: Iterable[Ticket]) -> None:
        for ticket in tickets:
            self._post(functools.partial(self._begin, ticket))

    def cancel(self, tickets: Iterable[Ticket]) -> None:
        """Those that have ended already are left alone."""
        tickets = list(tickets)

        def each() -> None:
            for ticket in tickets:
                self._cancel(ticket)

        self._post(each)

    def cancel_all(self) -> None:
        self._post(self._cancel_all)

    def _post(self, command: Callable[[], None], *, stopping: bool = False) -> None:
        with self._wake:
            self._inbox.append(command)
            self._stopping = self._stopping or stopping
            self._wake.notify()

    # The thread

    def _run(self) -> None:
        import torch

        torch.set_num_threads(self._threads)  # OpenMP's number of threads is each thread's own
        while True:
            with self._wake:
                while not (self._inbox or self._tickets or self._stopping):
                    self._wake.wait()
                commands, self._inbox = self._inbox, deque()
                stopping = self._stopping
            for command in commands:
                self._go_on_after(command)
            if self._tickets:
                self._go_on_after(self._step)
            elif stopping:
                return

    def _go_on_after(self, work: Callable[[], None]) -> None:
        """Does it; whatever goes wrong, the server goes on, with an empty engine."""
        try:
            work()
        except Exception:
            logger.exception("a step of the engine failed; its requests are lost")
            lost, self._tickets = list(self._tickets.values()), {}
            self._deliver([(ticket, EngineFailed()) for ticket in lost])
            try:
                self._model.restart()
                self.stats = dict(self._model.batch.stats)
            except Exception:  # there is no memory, say: the next request tries again
                logger.exception("the engine does not start anew")

    def _step(self) -> None:
        changed = self._model.batch.step()
        news: list[tuple[Ticket, Piece | Exception]] = []
        for job in changed:
            ticket = self._tickets[id(job)]
            piece = job.take()
            if job.done:
                del self._tickets[id(job)]
            if piece.tokens or piece.text or piece.finish is not None:
                news.append((ticket, piece))
        self.stats = dict(self._model.batch.stats)
        self._deliver(news)

    def _begin(self, ticket: Ticket) -> None:
        try:
            ticket.job = self._model.batch.submit(ticket.prompt, ticket.options)
        except Exception as error:
            self._deliver([(ticket, error)])
            return
        if ticket.job.done:  # no tokens were asked for
            self._deliver([(ticket, ticket.job.take())])
        else:
            self._tickets[id(ticket.job)] = ticket

    def _cancel(self, ticket: Ticket) -> None:
        if ticket.job is not None and self._tickets.pop(id(ticket.job), None) is not None:
            self._model.batch.cancel(ticket.job)
            self._deliver([(ticket, ticket.job.take())])

    def _cancel_all(self) -> None:
        for ticket in list(self._tickets.values()):
            self._cancel(ticket)

    def _deliver(self, news: list[tuple[Ticket, Piece | Exception]]) -> None:
        if not news:
            return

        def put() -> None:
            for ticket, item in news:
                ticket.put(item)

        try:
            news[0][0].loop.call_soon_threadsafe(put)
        except RuntimeError:  # the loop is closed: nobody waits for it any more
            pass
