"""Chunks of rows through the steps, in this process or in several, in order either way."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from .rows import Bad, Row
from .settings import Settings
from .steps import Steps, Tallies

_ROWS, _CHARACTERS = 128, 1 << 18  # a chunk ends at either: few enough to hold several
Item = Row | Bad
Done = tuple[list[Item], Tallies]

_steps: Steps  # of a worker process


def carry_out(rows: Iterator[Item], settings: Settings) -> Generator[Done, None, None]:
    """(what is left of a chunk of rows, what the steps counted), chunk by chunk."""
    steps = Steps(settings)
    if settings.workers == 1:
        yield from (_work(chunk, steps) for chunk in _chunks(rows))
        return
    # Fresh processes: a fork would copy threads' locks. At most two chunks a worker are on their way.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(settings.workers, context, _start, (settings,))
    waiting: deque[Future[Done]] = deque()
    try:
        for chunk in _chunks(rows):
            waiting.append(pool.submit(_work, chunk))
            if len(waiting) == 2 * settings.workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise OSError(
            "a worker process ended, perhaps for want of memory; try --workers 1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(rows: Iterator[Item]) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    size = 0
    for item in rows:
        chunk.append(item)
        size += len(item.text) if isinstance(item, Row) else 0
        if len(chunk) == _ROWS or size >= _CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _start(settings: Settings) -> None:
    global _steps
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the first process, which ends this one
    _steps = Steps(settings)


def _work(chunk: list[Item], steps: Steps | None = None) -> Done:
    steps = _steps if steps is None else steps
    items = (steps(item) if isinstance(item, Row) else item for item in chunk)
    return [item for item in items if item is not None], steps.take_tallies()
