"""Answers that are parts of a text: where they start and end, and the likeliest of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusedlm.data.tokenizer import Tokenizer

from .texts import in_batches

if TYPE_CHECKING:
    from .encoder import Encoder

LONGEST = 384  # tokens of a window, question and all (BERT's on SQuAD)
LONGEST_ANSWER = 30  # tokens


@dataclass(frozen=True)
class Window:
    """A question and a part of its text as the model reads them.

    `spans` are the characters of the text that each token stands for, from token `first` to before
    `end`; other tokens are the question's and those put around both.
    """

    question: int
    ids: list[int]
    types: list[int]
    spans: list[tuple[int, int]]
    first: int
    end: int

    def tokens_of(self, start: int, end: int) -> tuple[int, int] | None:
        """The first and last token of the characters from `start` to before `end`; None: not all here."""
        inside = range(self.first, self.end)
        touched = [t for t in inside if self.spans[t][0] < end and self.spans[t][1] > start]
        if not touched or self.spans[touched[0]][0] > start or self.spans[touched[-1]][1] < end:
            return None
        return touched[0], touched[-1]


def encode_windows(
    model: Encoder,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    *,
    longest: int = LONGEST,
) -> list[Window]:
    """Pairs (question, text) in windows of at most `longest` tokens, of which a third is read twice.

    Of a question longer than a third of a window the end is left out.
    """
    longest = min(longest, model.config.context)
    if longest < 16:
        raise ValueError(f"encode_windows: longest is {longest}, expected at least 16 tokens")
    third = longest // 3
    windows = []
    for number, parts in enumerate(tokenizer.encode_pairs(pairs, longest, third, third)):
        for part in parts:
            inside = [t for t, sequence in enumerate(part.sequence_ids) if sequence == 1]
            if inside:
                windows.append(
                    Window(number, part.ids, part.type_ids, part.offsets, inside[0], inside[-1] + 1)
                )
    return windows


@dataclass(frozen=True)
class Answer:
    """A part of the text, text[start:end], and how the model likes it.

    `score` is the sum of the logits of first and last token; `probability` its share among all
    answers, "no answer" being one of them. An empty text is that one.
    """

    text: str
    start: int
    end: int
    score: float
    probability: float


@torch.no_grad()
def find_answers(
    model: Encoder, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], *, top: int = 1,
    longest: int = LONGEST, longest_answer: int = LONGEST_ANSWER,
    progress: Callable[[int], None] | None = None,
) -> list[list[Answer]]:  # fmt: skip
    """For each (question, text) the `top` likeliest answers, best first, and at last "no answer".

    An answer that overlaps a better one is left out. A text that is longer than a window is read in
    several; "no answer" is as likely as the window says that finds it least likely (as in SQuAD 2.0's
    baselines: Rajpurkar et al. 2018, arXiv:1806.03822).
    progress(n) is called when n more windows are read.
    """
    task = getattr(model.config, "task", None)
    if task != "span":
        raise ValueError(f"find_answers: the model's task is {task!r}, expected 'span'")
    for name, value in (("top", top), ("longest_answer", longest_answer)):
        if value < 1:
            raise ValueError(f"find_answers: {name} is {value}, expected at least 1")
    windows = encode_windows(model, tokenizer, pairs, longest=longest)
    logits = window_logits(model, windows, progress)
    return answers_in(pairs, windows, logits, top=top, longest_answer=longest_answer)


def answers_in(
    pairs: Sequence[tuple[str, str]], windows: Sequence[Window], logits: Sequence[Tensor], *,
    top: int = 1, longest_answer: int = LONGEST_ANSWER,
) -> list[list[Answer]]:  # fmt: skip
    """`find_answers`, from the logits [T, 2] of each window."""
    found: list[list[_Scored]] = [[] for _ in pairs]
    for window, scores in zip(windows, logits, strict=True):
        spans = _spans(window, scores, longest_answer)
        found[window.question].append(_best(window, spans, float(scores[0].sum()), top))
    return [_answers(text, each, top) for (_, text), each in zip(pairs, found, strict=True)]


@torch.no_grad()
def window_logits(
    model: Encoder, windows: Sequence[Window], progress: Callable[[int], None] | None = None
) -> list[Tensor]:
    """Logits [T, 2] float32 of each window."""
    rows = [window.ids for window in windows]
    results: list[Tensor] = [torch.empty(0)] * len(windows)
    for chosen, packed in in_batches(model, rows, types=token_types(model, windows)):
        parts = model.classify_packed(packed).float().cpu().split(packed.lengths.tolist())
        for number, part in zip(chosen, parts, strict=True):
            results[number] = part
        if progress is not None:
            progress(len(chosen))
    return results


def token_types(model: Encoder, windows: Sequence[Window]) -> list[list[int]] | None:
    """For a model that tells question and text apart by them."""
    return [window.types for window in windows] if model.config.types > 1 else None


def _spans(window: Window, logits: Tensor, longest_answer: int) -> Tensor:
    """Scores [T, L] of the answers from text token t to t + l; -inf where there is none."""
    start, end = logits[window.first : window.end].unbind(1)
    length = min(longest_answer, len(end))
    ends = torch.nn.functional.pad(end, (0, length - 1), value=float("-inf")).unfold(0, length, 1)
    return start[:, None] + ends


@dataclass(frozen=True)
class _Scored:
    """A window: the score of "no answer", the log of the sum of all answers' exps, and (score, start,
    end) of the best ones."""

    none: float
    total: float
    best: list[tuple[float, int, int]]


def _best(window: Window, spans: Tensor, none: float, top: int) -> _Scored:
    scores, places = spans.flatten().topk(min(spans.numel(), 20 * top))
    length = spans.shape[1]
    candidates = []
    for score, place in zip(scores.tolist(), places.tolist(), strict=True):
        first = window.first + place // length
        last = first + place % length
        if score > float("-inf"):
            candidates.append((score, window.spans[first][0], window.spans[last][1]))
    return _Scored(none, float(spans.flatten().logsumexp(0)), candidates)


def _answers(text: str, windows: Sequence[_Scored], top: int) -> list[Answer]:
    if not windows:  # an empty text
        return [Answer("", 0, 0, 0.0, 1.0)]
    none = min(window.none for window in windows)
    terms = torch.tensor([none, *(window.total for window in windows)], dtype=torch.float64)
    total = float(terms.logsumexp(0))
    kept: list[Answer] = []
    candidates = [each for window in windows for each in window.best]
    for score, start, end in sorted(candidates, key=lambda each: -each[0]):
        if len(kept) == top:
            break
        if not any(start < other.end and other.start < end for other in kept):
            kept.append(Answer(text[start:end], start, end, score, math.exp(score - total)))
    return [*kept, Answer("", 0, 0, none, math.exp(none - total))]


def margin(answers: Sequence[Answer]) -> float:
    """By how much the score of "no answer" is above that of the best answer; inf where there is none."""
    return answers[-1].score - answers[0].score if len(answers) > 1 else math.inf
