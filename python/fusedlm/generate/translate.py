"""Texts into another language."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.data.translation_memory import TranslationMemory
from fusedlm.models.encoder_decoder import EncoderDecoder

from .beam_search import beam_search


def translate(
    model: EncoderDecoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    memory: TranslationMemory | None = None,
    beam: int = 4,
    length_penalty: float = 1.0,
    max_length: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[str | None]:
    """The best translation of each text that `beam_search` finds, which has the options.

    A model that reads examples gets those that `memory` finds, or none without it. An empty text
    stays empty. None stands for a text that is too long for the model. Texts are translated as
    they are: clean them as the training data was (`fusedlm.data.clean`).
    """
    rows = tokenizer.encode_batch(texts)
    fitting = [i for i, row in enumerate(rows) if 0 < len(row) < model.config.context]
    if progress is not None and len(fitting) < len(rows):
        progress(len(rows) - len(fitting))
    examples = examples_for(model, tokenizer, [texts[i] for i in fitting], memory)
    found = beam_search(
        model, [rows[i] for i in fitting], examples=examples, beam=beam,
        length_penalty=length_penalty, max_length=max_length, progress=progress,
    )  # fmt: skip
    results: list[str | None] = [None if row else "" for row in rows]
    for i, hypotheses in zip(fitting, found, strict=True):
        results[i] = tokenizer.decode(hypotheses[0].tokens)
    return results


def examples_for(
    model: EncoderDecoder, tokenizer: Tokenizer, texts: Sequence[str],
    memory: TranslationMemory | None, *, others: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[list[list[int]]]:  # fmt: skip
    """The tokens of what `memory` has for each text, as many as the model reads, cut to its context.

    `others` as in `TranslationMemory.look_up`.
    """
    count, context = model.config.examples, model.config.context
    if memory is None or not count:
        return [[] for _ in texts]
    found = []
    for text in texts:
        matches = memory.look_up(text, count, others=others)
        rows = tokenizer.encode_batch([match.target for match in matches])
        found.append([row[: context - 1] for row in rows])
        if progress is not None:
            progress(1)
    return found
