"""What a model reads of a text: the tokens, and what stands beside them."""

from __future__ import annotations

from dataclasses import dataclass

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.models.spans import LONGEST, Window, encode_windows, token_types

from .question import Question
from .tracing import Model, task_of


@dataclass(frozen=True)
class Reading:
    """`ids` are the tokens; `types` those of an encoder that tells two texts apart by them; `window` says
    where in them the text of an answer is."""

    ids: list[int]
    types: list[int] | None = None
    window: Window | None = None


def read(model: Model, tokenizer: Tokenizer, text: str, question: Question) -> Reading:
    """Raises ValueError for a text that has no tokens, and where what the model needs is not given."""
    if task_of(model) == "span":
        return _read_both(model, tokenizer, text, question.asked)
    if question.asked is not None:
        raise ValueError("walk: asked is given, and the model does not find answers")
    ids = tokenizer.encode(text, add_special=True)
    if not ids:
        raise ValueError(f"walk: text is {text!r}, which has no tokens")
    return Reading(ids)


def _read_both(model: Model, tokenizer: Tokenizer, text: str, asked: str | None) -> Reading:
    if asked is None:
        raise ValueError(
            "walk: the encoder finds answers, and asked, the question, is not given (--question)"
        )
    windows = encode_windows(model, tokenizer, [(asked, text)])
    if not windows:
        raise ValueError(f"walk: text is {text!r}, which has no tokens")
    if len(windows) > 1:
        raise ValueError(
            f"walk: the text makes {len(windows)} windows of {min(LONGEST, model.config.context)}"
            " tokens with its question, expected one"
        )
    types = token_types(model, windows)
    return Reading(windows[0].ids, None if types is None else types[0], windows[0])
