"""How good translations are: BLEU and chrF as sacreBLEU computes them, and what became of placeholders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from fusedlm.evaluation.intervals import bootstrap

# What a program puts a value in place of, and marks of formats: %1, %s, %(name)s, %PRODUCTNAME, $(ARG1),
# ${name}, {0}, {name}, <b>.
_PLACEHOLDER = re.compile(
    r"%\d+(?:\$[a-z])?|%\(\w+\)[a-z]|%[sdifuxc]\b|%[A-Z][A-Z_0-9]+|\$\(\w+\)|\$\{\w+\}|\{\w*\}|</?\w+>"
)


def bleu(translations: Sequence[str], references: Sequence[str], *, tokenize: str = "13a") -> float:
    """BLEU of a corpus, 0 to 100 (Papineni et al. 2002; Post 2018, arXiv:1804.08771).

    `tokenize` is sacreBLEU's: 13a for languages with spaces, zh, ja-mecab or char for others.
    """
    known = [str(name) for name in sacrebleu().BLEU.TOKENIZERS]
    if tokenize not in known:
        raise ValueError(f"bleu: tokenize is {tokenize!r}, expected one of {', '.join(known)}")
    found = sacrebleu().corpus_bleu(translations, [references], tokenize=tokenize)
    return float(found.score)


def chrf(translations: Sequence[str], references: Sequence[str]) -> float:
    """chrF2 of a corpus, 0 to 100 (Popović 2015): n-grams of characters, so no tokenizer matters."""
    return float(sacrebleu().corpus_chrf(translations, [references]).score)


def placeholders(text: str) -> Counter[str]:
    return Counter(_PLACEHOLDER.findall(text))


def placeholders_kept(sources: Sequence[str], translations: Sequence[str]) -> tuple[int, int]:
    """How many placeholders of the sources are in their translations, and how many there are."""
    pairs = [(placeholders(s), placeholders(t)) for s, t in zip(sources, translations, strict=True)]
    return sum((s & t).total() for s, t in pairs), sum(s.total() for s, _ in pairs)


def scores(
    sources: Sequence[str], translations: Sequence[str], references: Sequence[str], *,
    tokenize: str = "13a",
) -> dict[str, float]:  # fmt: skip
    """All of it by name, and the share of translations that are the reference, word for word."""
    kept, there = placeholders_kept(sources, translations)
    same = sum(t == r for t, r in zip(translations, references, strict=True))
    return {
        "bleu": bleu(translations, references, tokenize=tokenize),
        "chrf": chrf(translations, references),
        "exact": same / max(1, len(references)),
        "placeholders": there,
        "placeholders_kept": kept,
    }


def differences(
    translations: Sequence[str], others: Sequence[str], references: Sequence[str], *,
    tokenize: str = "13a", resamples: int = 1000, seed: int = 0,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """How much better `translations` are than `others` in "bleu" and "chrf" (paired bootstrap: Koehn 2004).

    "difference" is that of the whole; "low" and "high" hold 95 % of the differences on `resamples`
    draws of as many texts with replacement, the same ones for both, and "wins" is the share of draws
    in which `translations` are better.
    """
    metrics = sacrebleu()
    found = {}
    for name, metric in (("bleu", metrics.BLEU(tokenize=tokenize)), ("chrf", metrics.CHRF())):
        ours, theirs = (_counts(metric, each, references) for each in (translations, others))

        def gain(rows: Any, metric: Any = metric, ours: Any = ours, theirs: Any = theirs) -> float:
            return _score(metric, ours[rows]) - _score(metric, theirs[rows])

        draws = bootstrap(gain, len(references), resamples=resamples, seed=seed)
        low, high = np.percentile(draws, (2.5, 97.5))
        found[name] = {
            "difference": gain(slice(None)), "low": float(low), "high": float(high),
            "wins": float((draws > 0).mean()),
        }  # fmt: skip
    return found


def _counts(metric: Any, translations: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """[texts, n]: what sums over texts, and from whose sums the score follows.

    sacreBLEU computes a corpus from these, too; it has no public name for them. Its own paired test
    holds 1000 copies of them in memory.
    """
    return np.array(metric._extract_corpus_statistics(translations, [references]), np.float64)


def _score(metric: Any, counts: np.ndarray) -> float:
    return float(metric._compute_score_from_stats(counts.sum(0).tolist()).score)


def sacrebleu() -> ModuleType:
    try:
        import sacrebleu
    except ImportError as error:
        raise NotImplementedError(
            "BLEU and chrF need sacrebleu: pip install 'fusedlm[translate]', or pip install sacrebleu"
        ) from error
    return sacrebleu
