"""Questions with answers to choose from, scored by the likelihood of each answer.

Items are JSON lines in the form of lm-evaluation-harness: a "query" (or "context" or "question"),
"choices", and the right one as "gold" (or "answer" or "label"): its number from 0, or its text.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from fusedlm.data.json_lines import read_objects
from fusedlm.data.labelled import Skipped

from .intervals import bootstrap_error
from .likelihood import Likelihoods

QUERY = ("query", "context", "question")
GOLD = ("gold", "answer", "label")


@dataclass(frozen=True)
class Item:
    """`place` is where it stands, as file:line."""

    query: str
    choices: tuple[str, ...]
    gold: int
    place: str = field(default="", compare=False)


class _Unusable(ValueError):
    """An item of another form; `reason` is the same for all items of that fault."""

    def __init__(self, reason: str, place: str, more: str = "") -> None:
        super().__init__(f"{place}: {reason}{more}")
        self.reason = reason


def read_items(path: str | os.PathLike[str], skipped: Skipped | None = None) -> Iterator[Item]:
    """The items of a .jsonl file, one at a time.

    Lines that are no item are counted in `skipped`; without it they are a ValueError naming file and
    line.
    """
    for values, place in read_objects(path, skipped):
        try:
            item = _item(values, place)
        except _Unusable as error:
            if skipped is None:
                raise
            skipped.add(error.reason, place)
        else:
            yield item


def scorable(
    likelihoods: Likelihoods, items: Iterable[Item], skipped: Skipped, *, delimiter: str = " "
) -> Iterator[Item]:
    """The items that `score_items` takes; the others are counted."""
    for item in items:
        found = (likelihoods.refusal(item.query, delimiter + choice) for choice in item.choices)
        reason = next((why for why in found if why is not None), None)
        if reason is None:
            yield item
        else:
            skipped.add(f"a choice {reason}", item.place)


def _item(values: dict[str, Any], place: str) -> Item:
    query, gold = _first(values, QUERY, place), _first(values, GOLD, place)
    choices = values.get("choices")
    if not isinstance(query, str):
        raise _Unusable("the query is no string", place, f" but {query!r}")
    texts = isinstance(choices, list) and all(isinstance(c, str) and c for c in choices)
    if not isinstance(choices, list) or not texts or len(choices) < 2:
        raise _Unusable("choices are not two or more texts", place, f" but {choices!r}")
    if isinstance(gold, str) and choices.count(gold) == 1:
        gold = choices.index(gold)
    if type(gold) is not int or not 0 <= gold < len(choices):
        raise _Unusable(
            "the right answer is none of the choices", place,
            f": it is {gold!r}, expected 0 to {len(choices) - 1} or one of them",
        )  # fmt: skip
    return Item(query, tuple(choices), gold, place)


def _first(values: dict[str, Any], keys: tuple[str, ...], place: str) -> Any:
    for key in keys:
        if key in values:
            return values[key]
    raise _Unusable(f"none of {', '.join(keys)} is there", place)


@dataclass(frozen=True)
class Answer:
    """An item, the log-likelihood of each choice, and which is best: by the likelihood, and by the
    likelihood per byte, for which a longer choice is not the worse."""

    item: Item
    log_likelihoods: tuple[float, ...]

    @property
    def best(self) -> int:
        return _largest(self.log_likelihoods)

    @property
    def best_norm(self) -> int:
        sizes = [len(choice.encode()) for choice in self.item.choices]
        return _largest([x / n for x, n in zip(self.log_likelihoods, sizes, strict=True)])

    def to_dict(self) -> dict[str, Any]:
        return {
            "query": self.item.query,
            "choices": list(self.item.choices),
            "gold": self.item.gold,
            "log_likelihoods": list(self.log_likelihoods),
            "best": self.best,
            "best_norm": self.best_norm,
        }


def _largest(values: Iterable[float]) -> int:
    values = list(values)
    return values.index(max(values))


def score_items(
    likelihoods: Likelihoods, items: Iterable[Item], *, delimiter: str = " ", progress: bool = False
) -> Iterator[Answer]:
    """The items with their likelihoods, as they are computed: memory holds but a few at a time.

    `delimiter` stands between query and choice, as in the harness.
    """
    waiting: deque[Item] = deque()

    def pairs() -> Iterator[tuple[list[int], list[int]]]:
        for item in items:
            waiting.append(item)
            for choice in item.choices:
                yield likelihoods.encode_pair(item.query, delimiter + choice)

    scores = likelihoods.pairs(pairs())
    with tqdm(desc="scoring", unit="item", disable=not progress) as bar:
        for score in scores:
            item = waiting.popleft()
            found = [score, *itertools.islice(scores, len(item.choices) - 1)]
            yield Answer(item, tuple(one.log_likelihood for one in found))
            bar.update()


def summary(answers: Iterable[Answer], *, seed: int = 0) -> dict[str, float]:
    """acc and acc_norm with their bootstrap standard errors, and what guessing would reach."""
    right, right_norm, chance = [], [], 0.0
    for answer in answers:
        right.append(float(answer.best == answer.item.gold))
        right_norm.append(float(answer.best_norm == answer.item.gold))
        chance += 1 / len(answer.item.choices)
    if not right:
        raise ValueError("multiple choice: there are no items")
    return {
        "acc": sum(right) / len(right),
        "acc_stderr": bootstrap_error(right, seed=seed),
        "acc_norm": sum(right_norm) / len(right),
        "acc_norm_stderr": bootstrap_error(right_norm, seed=seed),
        "chance": chance / len(right),
        "items": len(right),
    }
