"""Requests that share the steps of one engine: tokens become text, stop strings end it.

A `Batch` belongs to one thread at a time. Whoever wants text submits a `Job`, steps the batch until
the job is done, and takes from the job what has come since the last time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .constrain import Constraint
from .sampling import Sampling, check_integer
from .text import TextStream, Tokenizer

# Odd, so that the seeds of a text's parts stay apart (2^64 divided by the golden ratio).
_NEXT_SEED = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Options:
    """What one request asks for beyond its prompt. Raises ValueError naming what does not fit.

    stop: strings that end the text and are left out. stop_ids: tokens that do. ignore_eos: the
    model's own ends do not count. guess_tokens: look so many tokens ahead (same text, fewer
    steps). slide: a text that fills the context goes on from its last context / 2 tokens.
    """

    max_new_tokens: int = 256
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    stop: Sequence[str] = ()
    stop_ids: Sequence[int] = ()
    ignore_eos: bool = False
    guess_tokens: int = 0
    constraint: Constraint | None = None
    slide: bool = False

    def __post_init__(self) -> None:
        check_integer("max_new_tokens", self.max_new_tokens, 0)
        check_integer("guess_tokens", self.guess_tokens, 0)
        stops = [self.stop] if isinstance(self.stop, str) else list(self.stop)
        if any(not isinstance(s, str) or not s for s in stops):
            raise ValueError(f"generate: stop is {self.stop!r}, expected strings, none empty")
        object.__setattr__(self, "stop", tuple(stops))


@dataclass(frozen=True)
class Piece:
    """What came since the last piece; `finish` is set in the last one: stop, length, cancelled."""

    text: str
    tokens: list[int]
    log_probs: list[float]
    finish: str | None


class Job:
    """One request on its way: all of it so far, and how it ended."""

    def __init__(self, prompt: Sequence[int], options: Options, stream: TextStream | None) -> None:
        self.prompt = list(prompt)
        self.options = options
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        self.text = ""
        self.finish: str | None = None
        self._stream = stream
        self._taken_text = self._taken_tokens = 0
        self.parts = 0  # how often it went on after the context was full

    @property
    def done(self) -> bool:
        """Whether it has ended, for any reason."""
        return self.finish is not None

    def take(self) -> Piece:
        """What has come since the last call."""
        text, at = self.text[self._taken_text :], self._taken_tokens
        self._taken_text, self._taken_tokens = len(self.text), len(self.tokens)
        return Piece(text, self.tokens[at:], self.log_probs[at:], self.finish)

    def end(self, finish: str) -> None:
        """Ends the text, for the reason `finish`; one that has ended stays as it is."""
        if self.finish is None:
            if self._stream is not None:
                self.text += self._stream.close()
            self.finish = finish

    def add(self, token: int, log_prob: float) -> None:
        """Takes the next token, and ends the text where a stop string is complete."""
        self.tokens.append(token)
        self.log_probs.append(log_prob)
        if self._stream is not None:
            self.text += self._stream.push(token)
            if self._stream.stopped:
                self.finish = "stop"


class Batch:
    """Jobs on one generator (`_core.Generator`), whose model has `context` positions."""

    def __init__(self, generator: Any, context: int, tokenizer: Tokenizer | None = None) -> None:
        self._generator = generator
        self._context = context
        self._tokenizer = tokenizer
        self._jobs: dict[int, Job] = {}

    @property
    def jobs(self) -> Iterable[Job]:
        """Those that are not done."""
        return self._jobs.values()

    @property
    def stats(self) -> dict[str, int]:
        """Counts of the engine: requests that wait and run, tokens of all kinds since it was made."""
        counts: dict[str, int] = self._generator.stats
        return counts

    def submit(self, prompt: Sequence[int], options: Options) -> Job:
        """A job for the tokens of a prompt; it begins with the next step, and takes its turn if many run.

        Raises ValueError for a prompt without tokens, or with one outside the vocabulary.
        """
        stream = None
        if self._tokenizer is not None:
            stream = TextStream(self._tokenizer, options.stop, after=prompt)
        job = Job(prompt, options, stream)
        if options.max_new_tokens == 0:
            job.end("length")
        else:
            self._start(job)
        return job

    def cancel(self, job: Job) -> None:
        """Ends a job at once; what it has stays."""
        job.end("cancelled")
        self._forget(job)

    def step(self) -> list[Job]:
        """One step of the engine; the jobs that have something new."""
        changed = []
        for event in self._generator.step():
            job = self._jobs.get(event.request)
            if job is None:  # cancelled before
                continue
            for token, log_prob in zip(event.tokens, event.log_probs, strict=True):
                if not job.done:
                    job.add(token, log_prob)
            if job.done:  # by a stop string
                self._forget(job)
            elif event.end is not None:
                del self._jobs[event.request]
                self._part_ended(job, event.end)
            changed.append(job)
        return changed

    def _part_ended(self, job: Job, end: str) -> None:
        full = end == "length" and len(job.tokens) < job.options.max_new_tokens
        if full and job.options.slide and job.options.constraint is None:
            job.parts += 1
            self._start(job)
        else:
            job.end(end)

    def _start(self, job: Job) -> None:
        options, seen = job.options, job.prompt + job.tokens
        if options.slide and len(seen) >= self._context:
            seen = seen[-max(1, self._context // 2) :]
        allow = None if options.constraint is None else options.constraint.start()
        request = self._generator.submit(
            seen,
            max_new_tokens=options.max_new_tokens - len(job.tokens),
            **options.sampling.fields(),
            seed=(options.seed + job.parts * _NEXT_SEED) % 2**64,
            stop_ids=list(options.stop_ids),
            ignore_eos=options.ignore_eos,
            guess_tokens=options.guess_tokens,
            allow=allow,
        )
        self._jobs[request] = job

    def _forget(self, job: Job) -> None:
        for request, other in list(self._jobs.items()):
            if other is job:
                del self._jobs[request]
                self._generator.cancel(request)
