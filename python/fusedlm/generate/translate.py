"""Texts into another language."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.data.translation_memory import Match, TranslationMemory
from fusedlm.models.encoder_decoder import EncoderDecoder

from .beam_search import Hypothesis, beam_search
from .consensus import most_agreed, weights_of

# By BLEU and chrF of held-out program messages: how much the hypotheses' probabilities differ in a
# consensus, and what share of it the memory's translation has.
_SHARPNESS, _MEMORY_SHARE = 0.5, 0.4


def translate(
    model: EncoderDecoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    memory: TranslationMemory | None = None,
    beam: int = 4,
    length_penalty: float = 1.0,
    max_length: int | None = None,
    consensus: bool = True,
    progress: Callable[[int], object] | None = None,
) -> list[str | None]:
    """The best translation of each text that `beam_search` finds, which has the options.

    With `consensus` the best is that which is most like all hypotheses and like what `memory` has for
    the text (see `most_agreed`); else the most probable one. A beam of 1 has one hypothesis and no
    consensus. A model that reads examples gets those that `memory` finds, or none without it. An empty
    text stays empty. None stands for a text that is too long for the model. Texts are translated as they
    are: clean them as the training data was (`fusedlm.data.clean`).
    """
    rows = tokenizer.encode_batch(texts)
    fitting = [i for i, row in enumerate(rows) if 0 < len(row) < model.config.context]
    if progress is not None and len(fitting) < len(rows):
        progress(len(rows) - len(fitting))
    count = max(1, model.config.examples)
    matches = [[] if memory is None else memory.look_up(texts[i], count) for i in fitting]
    found = beam_search(
        model, [rows[i] for i in fitting], examples=_encoded(model, tokenizer, matches), beam=beam,
        length_penalty=length_penalty, max_length=max_length, progress=progress,
    )  # fmt: skip
    results: list[str | None] = [None if row else "" for row in rows]
    for i, hypotheses, known in zip(fitting, found, matches, strict=True):
        made = [tokenizer.decode(each.tokens) for each in hypotheses]
        best = 0
        if consensus and len(made) > 1:
            weights = _weights(hypotheses, length_penalty)
            made += [match.target for match in known[:1]]
            weights += [_MEMORY_SHARE / (1 - _MEMORY_SHARE) for _ in known[:1]]
            best = most_agreed(made, weights)
        results[i] = made[best]
    return results


def _weights(hypotheses: Sequence[Hypothesis], length_penalty: float) -> list[float]:
    logs = [each.score * (len(each.tokens) + 1) ** length_penalty for each in hypotheses]
    return weights_of(logs, _SHARPNESS)


def examples_for(
    model: EncoderDecoder, tokenizer: Tokenizer, texts: Sequence[str],
    memory: TranslationMemory | None, *, others: bool = False,
    progress: Callable[[int], object] | None = None,
) -> list[list[list[int]]]:  # fmt: skip
    """The tokens of what `memory` has for each text, as many as the model reads, cut to its context.

    `others` as in `TranslationMemory.look_up`.
    """
    if memory is None or not model.config.examples:
        return [[] for _ in texts]
    matches = []
    for text in texts:
        matches.append(memory.look_up(text, model.config.examples, others=others))
        if progress is not None:
            progress(1)
    return _encoded(model, tokenizer, matches)


def _encoded(
    model: EncoderDecoder, tokenizer: Tokenizer, matches: Sequence[Sequence[Match]]
) -> list[list[list[int]]]:
    """The tokens of the translations that the model reads."""
    count, most = model.config.examples, model.config.context - 1
    return [
        [row[:most] for row in tokenizer.encode_batch([match.target for match in found[:count]])]
        for found in matches
    ]
