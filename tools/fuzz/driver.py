"""Many inputs in processes of their own, so that a crash or a hang costs one input and is found.

A worker says in shared memory which input it is at; whoever dies or stands still there is reported, and
another worker goes on behind it.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tools.memory import resident

from .attempt import Finding, attempt, memory_limit
from .case import Case, Target, damaged

STANDSTILL = 30.0  # seconds in which a worker must come to its next input, busy machine or not
_AT = struct.Struct("<qqqq")  # next input, done, resident at the beginning and at the end
_WARM = 2000  # inputs after which memory should grow no more


@dataclass
class Result:
    """`findings`: of each kind and place the first input, and how many there were."""

    inputs: int = 0
    seconds: float = 0.0
    grown: int = 0  # bytes of memory, from the 2,000th input of a worker to its last
    findings: dict[tuple[str, str, str], tuple[int, Finding]] = field(default_factory=dict)
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def add(self, case: str, index: int, finding: Finding) -> None:
        key = (case, finding.kind, finding.where)
        self.counts[key] += 1
        if key not in self.findings or index < self.findings[key][0]:
            self.findings[key] = (index, finding)


def run(target: Target, inputs: int, seed: int, jobs: int = 1, first: int = 0) -> Result:
    """Inputs `first` to first + inputs of `seed`, dealt to `jobs` workers."""
    cases, result, began = target.cases(), Result(), time.monotonic()
    if not target.threads:
        warm_up(cases)
    workers = [
        _Worker(target, cases, seed, range(first + j, first + inputs, jobs)) for j in range(jobs)
    ]
    while alive := [worker for worker in workers if not worker.over]:
        for worker in alive:
            worker.look(result)
        time.sleep(0.05)
    result.seconds = time.monotonic() - began
    return result


def warm_up(cases: list[Case]) -> None:
    """Reads the valid files, which must succeed: what is imported and made the first time is no input's."""
    for case in cases:
        with scratch() as folder:
            path = case.lay_out(folder)
            path.write_bytes(case.valid)
            case.read(path)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory, as far as the system has one."""
    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fusedlm-fuzz-", dir=shm if shm.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Worker:
    def __init__(self, target: Target, cases: list[Case], seed: int, numbers: range) -> None:
        self._target, self._cases, self._seed, self._numbers = target, cases, seed, numbers
        self._shared = mmap.mmap(-1, _AT.size)
        self.over = not numbers
        if numbers:
            self._start(0)

    def _start(self, at: int) -> None:
        """A process for self._numbers[at:]."""
        self._shared[:] = _AT.pack(at, 0, 0, 0)
        self._seen, self._since = at, time.monotonic()
        read, write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                os.close(read)
                os.setsid()
                self._work(at, write)
                code = 0
            except BaseException as error:
                print(f"fuzz worker: {error!r}", file=sys.stderr)
            finally:
                os._exit(code)
        os.close(write)
        self._pipe = os.fdopen(read, "rb", buffering=0)
        os.set_blocking(read, False)
        self._left = b""

    def _work(self, at: int, write: int) -> None:
        quiet()
        if self._target.threads:
            warm_up(self._cases)
        begin = 0
        with scratch() as folder:
            paths = {}
            for case in self._cases:
                (folder / case.name).mkdir()
                paths[case.name] = case.lay_out(folder / case.name)
            with memory_limit(self._target.room):
                for place in range(at, len(self._numbers)):
                    self._shared[:8] = struct.pack("<q", place)
                    index = self._numbers[place]
                    case, data = damaged(self._cases, self._target.name, self._seed, index)
                    finding = attempt(case, paths[case.name], data)
                    if finding is not None:
                        line = json.dumps([case.name, index, asdict(finding)]) + "\n"
                        os.write(write, line.encode())
                    if place - at == _WARM:
                        gc.collect()
                        begin = resident()
            gc.collect()
            self._shared[:] = _AT.pack(len(self._numbers), 1, begin or resident(), resident())

    def look(self, result: Result) -> None:
        """What the process found since; whether it is over, dead or stands still."""
        gone, status = os.waitpid(self._pid, os.WNOHANG)
        while piece := self._pipe.read(1 << 16):
            self._left += piece
        *lines, self._left = self._left.split(b"\n")
        for line in lines:
            case, index, values = json.loads(line)
            result.add(case, index, Finding(**values))
        at, done, begin, end = _AT.unpack(self._shared[:])
        if at != self._seen:
            self._seen, self._since = at, time.monotonic()
        stuck = time.monotonic() - self._since > STANDSTILL
        if not gone and not stuck:
            return
        if not gone:
            os.kill(self._pid, 9)
            _, status = os.waitpid(self._pid, 0)
        self._pipe.close()
        if done:
            self.over = True
            result.inputs += len(self._numbers)
            result.grown += end - begin
            return
        index = self._numbers[at]
        case, _ = damaged(self._cases, self._target.name, self._seed, index)
        kind = "hang" if stuck else "crash"
        what = f"stood still for {STANDSTILL} s" if stuck else _died(status)
        result.add(case.name, index, Finding(kind, what, what))
        if at + 1 < len(self._numbers):
            self._start(at + 1)
        else:
            self.over = True
            result.inputs += len(self._numbers)


def _died(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"ended by signal {os.WTERMSIG(status)}"
    return f"ended with status {os.WEXITSTATUS(status)}"


def quiet() -> None:
    """Readers and what they use may write of a bad file to stderr: a million times is too often."""
    import logging
    import warnings

    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable()
    if not os.environ.get("FUSEDLM_TRACEBACK"):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)


def tried(target: Target, case: Case, data: bytes) -> Finding | None:
    """`attempt` in a process of its own: a crash is a finding, too."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            quiet()
            if target.threads:
                warm_up([case])
            with scratch() as folder:
                path = case.lay_out(folder)
                with memory_limit(target.room):
                    finding = attempt(case, path, data)
            os.write(write, json.dumps(finding and asdict(finding)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    ended = time.monotonic() + STANDSTILL
    while True:
        gone, status = os.waitpid(pid, os.WNOHANG)
        if gone:
            break
        if time.monotonic() > ended:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            os.close(read)
            return Finding("hang", f"stood still for {STANDSTILL} s", "")
        time.sleep(0.002)
    text = b""
    while piece := os.read(read, 1 << 16):
        text += piece
    os.close(read)
    if not text:
        return Finding("crash", _died(status), "")
    values = json.loads(text)
    return None if values is None else Finding(**values)


def minimised(target: Target, case: Case, data: bytes, finding: Finding, tries: int = 400) -> bytes:
    """Less of `data` with the same finding: pieces are left out, ever smaller ones."""

    def same(candidate: bytes) -> bool:
        nonlocal tries
        tries -= 1
        found = tried(target, case, candidate)
        return found is not None and (found.kind, found.where) == (finding.kind, finding.where)

    size = max(1, len(data) // 2)
    while size and tries > 0:
        at = 0
        while at < len(data) and tries > 0:
            shorter = data[:at] + data[at + size :]
            if same(shorter):
                data = shorter
            else:
                at += size
        size //= 2
    return data
