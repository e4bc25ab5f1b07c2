"""Texts into another language."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.models.encoder_decoder import EncoderDecoder

from .beam_search import beam_search


def translate(
    model: EncoderDecoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    beam: int = 4,
    length_penalty: float = 1.0,
    max_length: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[str | None]:
    """The best translation of each text that `beam_search` finds, which has the options.

    An empty text stays empty. None stands for a text that is too long for the model. Texts are
    translated as they are: clean them as the training data was (`fusedlm.data.clean`).
    """
    rows = tokenizer.encode_batch(texts)
    fitting = [i for i, row in enumerate(rows) if 0 < len(row) < model.config.context]
    if progress is not None and len(fitting) < len(rows):
        progress(len(rows) - len(fitting))
    found = beam_search(
        model, [rows[i] for i in fitting], beam=beam, length_penalty=length_penalty,
        max_length=max_length, progress=progress,
    )  # fmt: skip
    results: list[str | None] = [None if row else "" for row in rows]
    for i, hypotheses in zip(fitting, found, strict=True):
        results[i] = tokenizer.decode(hypotheses[0].tokens)
    return results
