"""Entities in tagged words: what spans tags mean, and how well they are found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

OUTSIDE = "O"
_BEGIN, _END = "BSU", "ESLU"  # of BIO, IOBES and BILOU


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(kind, first word, word after the last) of every entity, as CoNLL's scorer counts them.

    Reads BIO, IOB1, IOBES and BILOU: an entity begins at B, S or U, and at I, E or L after anything
    of another kind; it ends at E, S, L or U, and before what does not go on with it.
    """
    found: list[tuple[str, int, int]] = []
    kind: str | None = None
    first = 0
    for place, tag in enumerate((*tags, OUTSIDE)):
        prefix, _, name = tag.partition("-")
        begins = prefix in _BEGIN or tag == OUTSIDE or name != kind
        if kind is not None and begins:
            found.append((kind, first, place))
            kind = None
        if tag == OUTSIDE:
            continue
        if kind is None:
            kind, first = name, place
        if prefix in _END:
            found.append((kind, first, place + 1))
            kind = None
    return found


def entity_report(
    targets: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Precision, recall and F1 of whole entities, over all and by kind; ready for JSON.

    An entity counts as found where kind, first and last word are right. "tag_accuracy" is of words.
    Raises ValueError where sentences differ in length or number.
    """
    if len(targets) != len(predicted) or not targets:
        raise ValueError(
            f"entity_report: {len(predicted)} predicted sentences for {len(targets)}, expected as"
            " many, and at least one"
        )
    true: Counter[str] = Counter()
    given: Counter[str] = Counter()
    right: Counter[str] = Counter()
    words = hits = 0
    for number, (truth, guess) in enumerate(zip(targets, predicted, strict=True)):
        if len(truth) != len(guess):
            raise ValueError(
                f"entity_report: sentence {number} has {len(guess)} tags, expected {len(truth)}"
            )
        words += len(truth)
        hits += sum(a == b for a, b in zip(truth, guess, strict=True))
        in_truth, in_guess = set(spans(truth)), set(spans(guess))
        true.update(kind for kind, *_ in in_truth)
        given.update(kind for kind, *_ in in_guess)
        right.update(kind for kind, *_ in in_truth & in_guess)
    kinds = sorted(true | given)
    return {
        "sentences": len(targets), "words": words, "tag_accuracy": hits / max(1, words),
        **_scores(right.total(), given.total(), true.total()),
        "kinds": {kind: _scores(right[kind], given[kind], true[kind]) for kind in kinds},
    }  # fmt: skip


def _scores(right: int, given: int, true: int) -> dict[str, float]:
    return {
        "precision": right / max(1, given), "recall": right / max(1, true),
        "f1": 2 * right / max(1, given + true), "support": true,
    }  # fmt: skip


def wrong_sentences(
    sentences: Sequence[Sequence[str]], targets: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]], count: int = 10,
) -> list[dict[str, Any]]:  # fmt: skip
    """The sentences with most entities missed or invented, the worst first."""
    found = []
    for words, truth, guess in zip(sentences, targets, predicted, strict=True):
        in_truth, in_guess = spans(truth), spans(guess)
        wrong = len(set(in_truth) ^ set(in_guess))
        if wrong:
            shown = [
                ", ".join(f"{kind}: {' '.join(words[a:b])}" for kind, a, b in each) or "none"
                for each in (in_truth, in_guess)
            ]
            text = " ".join(words)
            found.append((-wrong, {"text": text, "label": shown[0], "predicted": shown[1]}))
    return [error for _, error in sorted(found, key=lambda pair: pair[0])[:count]]
