"""How good answers are that are parts of a text: SQuAD 2.0's exact match and F1, by its rules.

Rajpurkar et al. 2018, arXiv:1806.03822. Chinese and Japanese characters count as words of their own,
which changes nothing for other scripts.
"""

from __future__ import annotations

import os
import re
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusedlm.data.questions import Question
from fusedlm.figures import new_figure, save_figure

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation + "。，、；：？！「」『』《》（）…·“”‘’")
_OWN_WORD = re.compile(r"([\u3040-\u30ff\u3400-\u9fff])")


def words_of(text: str) -> list[str]:
    """Lower case, without punctuation and articles."""
    text = _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION))
    return _OWN_WORD.sub(r" \1 ", text).split()


def exact(text: str, reference: str) -> float:
    return float(words_of(text) == words_of(reference))


def f1(text: str, reference: str) -> float:
    """Of the words that both have; where one is empty, whether both are."""
    given, wanted = words_of(text), words_of(reference)
    if not given or not wanted:
        return float(given == wanted)
    common = (Counter(given) & Counter(wanted)).total()
    return 2 * common / (len(given) + len(wanted))


def answer_report(
    questions: Sequence[Question], texts: Sequence[str], margins: Sequence[float],
    threshold: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """Exact match and F1 in per cent, over all, those with an answer and those without; ready for JSON.

    `texts` are the best answers, `margins` by how much the score of "no answer" is above theirs: above
    `threshold` nothing is answered. "best_threshold" is the threshold of the best F1 ("best_f1").
    "errors" are the questions answered wrongly.
    """
    if not len(questions) == len(texts) == len(margins) or not questions:
        raise ValueError(
            f"answer_report: {len(texts)} texts and {len(margins)} margins for {len(questions)} questions,"
            " expected as many, and at least one"
        )
    given = [
        "" if margin > threshold else text for text, margin in zip(texts, margins, strict=True)
    ]
    scores = [_scores(q, text) for q, text in zip(questions, given, strict=True)]
    curve = threshold_curve(questions, texts, margins)
    best = max(curve, key=lambda point: point["f1"])
    parts = {"answerable": True, "unanswerable": False}
    return {
        "questions": len(questions), "threshold": threshold, **_means(scores),
        **{
            name: _means([s for s, q in zip(scores, questions, strict=True) if bool(q.answers) == has])
            for name, has in parts.items()
        },
        "best_threshold": best["threshold"], "best_f1": best["f1"], "curve": curve,
        "errors": [
            {
                "id": q.id, "question": q.question, "given": text,
                "expected": list(dict.fromkeys(t for t, _ in q.answers)),
            }
            for q, text, (right, _) in zip(questions, given, scores, strict=True)
            if not right
        ],
    }  # fmt: skip


def _scores(question: Question, text: str) -> tuple[float, float]:
    """The best over the references; one that is nothing but articles does not count (as SQuAD's)."""
    references = [t for t, _ in question.answers if words_of(t)] or [""]
    return max(exact(text, r) for r in references), max(f1(text, r) for r in references)


def _means(scores: list[tuple[float, float]]) -> dict[str, float]:
    if not scores:
        return {"count": 0}
    exacts, f1s = zip(*scores, strict=True)
    return {
        "count": len(scores), "exact": 100 * sum(exacts) / len(scores),
        "f1": 100 * sum(f1s) / len(scores),
    }  # fmt: skip


def threshold_curve(
    questions: Sequence[Question], texts: Sequence[str], margins: Sequence[float]
) -> list[dict[str, float]]:
    """Exact match and F1 in per cent at every threshold that changes them, from the lowest.

    At the lowest nothing is answered, at the highest everything. Thresholds lie halfway between
    margins, so that rounding on neither side changes an answer.
    """
    empty = [_scores(q, "") for q in questions]
    filled = [_scores(q, text) for q, text in zip(questions, texts, strict=True)]
    sums = [sum(each) for each in zip(*empty, strict=True)]
    order = sorted(range(len(margins)), key=lambda i: margins[i])
    curve = [(margins[order[0]] - 1.0, *sums)]
    for place, i in enumerate(order):
        sums = [s + filled[i][k] - empty[i][k] for k, s in enumerate(sums)]
        last = place + 1 == len(order)
        if last or margins[order[place + 1]] > margins[i]:
            above = margins[i] + 2.0 if last else margins[order[place + 1]]
            curve.append(((margins[i] + above) / 2, *sums))
    count = len(questions) / 100
    return [{"threshold": t, "exact": e / count, "f1": f / count} for t, e, f in curve]


def plot_threshold(report: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """A PNG of exact match and F1 over the threshold beyond which nothing is answered."""
    figure = new_figure(7, 4.5)
    axes = figure.add_subplot()
    places = [point["threshold"] for point in report["curve"]]
    for name, label in (("f1", "F1"), ("exact", "exact match")):
        axes.step(places, [p[name] for p in report["curve"]], where="post", label=label)
    axes.axvline(
        report["threshold"], color="gray", linestyle="--", linewidth=1, label="as measured"
    )
    axes.set(
        xlabel='threshold: how far the score of "no answer" may be above the best answer\'s',
        ylabel="per cent", ylim=(0, 100),
    )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, path)


def answer_summary(report: dict[str, Any]) -> str:
    """The main numbers in a few lines, for a terminal."""
    lines = [f"{'':14}{'questions':>10}{'exact':>8}{'F1':>8}"]
    rows = {"all": {**report, "count": report["questions"]}}
    rows |= {name: report[name] for name in ("answerable", "unanswerable")}
    lines += [
        f"{name:14}{row['count']:10,}{row['exact']:8.1f}{row['f1']:8.1f}"
        for name, row in rows.items()
        if row["count"]
    ]
    lines.append(
        f"threshold {report['threshold']:.2f}; the best F1 of this data, {report['best_f1']:.1f}, is at"
        f" {report['best_threshold']:.2f}"
    )
    return "\n".join(lines)
