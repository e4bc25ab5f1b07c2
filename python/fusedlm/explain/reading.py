"""What a model reads of a text: the tokens, and what stands beside them."""

from __future__ import annotations

from dataclasses import dataclass

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.generate import beam_search
from fusedlm.models import Encoder, EncoderDecoder
from fusedlm.models.spans import LONGEST, Window, encode_windows, token_types

from .question import Question
from .tracing import Model

_NOT_ASKED = "walk: asked is given, and the model does not find answers"


@dataclass(frozen=True)
class Reading:
    """`ids` are the tokens; `types` those of an encoder that tells two texts apart by them; `window` says
    where in them the text of an answer is. Of an encoder-decoder `ids` are the target's, after an end; `source`
    is as in `trace`, and `source_ids` what its encoder reads."""

    ids: list[int]
    types: list[int] | None = None
    window: Window | None = None
    source: list[list[int]] | None = None
    source_ids: list[int] | None = None


def read(model: Model, tokenizer: Tokenizer, text: str, question: Question) -> Reading:
    """Raises ValueError for a text that has no tokens, and where what the model needs is not given."""
    if isinstance(model, Encoder) and model.config.task == "span":
        return _read_both(model, tokenizer, text, question.asked)
    if isinstance(model, EncoderDecoder):
        return _read_pair(model, tokenizer, text, question)
    if question.asked is not None:
        raise ValueError(_NOT_ASKED)
    ids = tokenizer.encode(text, add_special=True)
    if not ids:
        raise ValueError(f"walk: text is {text!r}, which has no tokens")
    return Reading(ids)


def _read_pair(
    model: EncoderDecoder, tokenizer: Tokenizer, text: str, question: Question
) -> Reading:
    if question.asked is not None:
        raise ValueError(_NOT_ASKED)
    source, most = tokenizer.encode(text), model.config.context - 1
    if not source:
        raise ValueError(f"walk: text is {text!r}, which has no tokens")
    if len(source) > most:
        raise ValueError(f"walk: the text has {len(source)} tokens, expected at most {most}")
    if question.target is None:
        target = beam_search(model, [source])[0][0].tokens
    else:
        target = tokenizer.encode(question.target)
    if len(target) > most:
        raise ValueError(f"walk: target has {len(target)} tokens, expected at most {most}")
    source_ids = model.pack_sources([[source]]).tokens.tolist()
    return Reading([model.config.end_id, *target], source=[source], source_ids=source_ids)


def _read_both(model: Encoder, tokenizer: Tokenizer, text: str, asked: str | None) -> Reading:
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
