"""One input: read it, and say what is wrong with what came of it."""

from __future__ import annotations

import resource
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fusedlm.errors import EXPECTED

from .case import Broken, Case

SECONDS = 1.0  # of CPU time, which other programs on the machine do not change


class _TooSlow(BaseException):
    """No Exception: readers that catch all of those do not catch it."""


@dataclass(frozen=True)
class Finding:
    """`kind`: crash, hang, slow, memory, exception, "no name" or wrong. `where` tells findings apart."""

    kind: str
    where: str
    text: str


def _too_slow(*_: object) -> None:
    raise _TooSlow


def attempt(case: Case, path: Path, data: bytes) -> Finding | None:
    """None where `case.read` succeeds or refuses `data` as it should."""
    path.write_bytes(data)
    signal.signal(signal.SIGPROF, _too_slow)
    began = time.process_time()
    try:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            case.read(path)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except _TooSlow as error:
        return Finding("slow", _where(error), f"more than {SECONDS} s of CPU time")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return _judge(case, path, error)
    spent = time.process_time() - began
    return Finding("slow", "", f"{spent:.2f} s of CPU time") if spent > SECONDS else None


def _judge(case: Case, path: Path, error: BaseException) -> Finding | None:
    text = f"{type(error).__name__}: {error}"[:300]
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return Finding("memory", _where(error), text)
    if isinstance(error, Broken):
        return Finding("wrong", _where(error), text)
    if not isinstance(error, EXPECTED):
        return Finding("exception", _where(error), text)
    named = (str(path.parent), path.name, *case.words)
    if case.names_file and not any(word in str(error) for word in named):
        return Finding("no name", _where(error), text)
    return None


def _where(error: BaseException) -> str:
    """The last place in our code, and in whatever it called: what makes two findings one."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "fusedlm" in f.filename and "tools/fuzz" not in f.filename]
    frame = (ours or frames)[-1]
    kind = type(error).__name__
    return f"{kind} at {Path(frame.filename).name}:{frame.lineno} {frame.name}"


@contextmanager
def memory_limit(room: int) -> Iterator[None]:
    """No more address space than `room` MiB beyond what is in use."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (room << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
