"""One sentence through a model, from tokens to the optimizer's step: everything to be shown, in one place.

`walk` computes it, `print_walk` shows it in a terminal and `write_page` as a page. Vectors are kept as
[length, first numbers ...]: as many numbers as are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.models import Encoder, EncoderDecoder
from fusedlm.models.files import write_json

from .learning import explain_step
from .plain import Attention
from .question import Question
from .reading import Reading, read
from .rounding import rounded, vectors
from .sections import sections
from .shown import Shown
from .tracing import Model, dtype_for, layers_of, trace

MOST_WEIGHTS = 1 << 21  # attention weights in one walk: 16 MB of a page, with the scores


@dataclass(frozen=True)
class Maps:
    """`weights` and `scores` [L, H, T, S]: T tokens look at S. A score that is hidden is -inf."""

    weights: Tensor
    scores: Tensor

    @classmethod
    def of(cls, attentions: Sequence[Attention]) -> Self:
        seen = torch.stack([attention.seen for attention in attentions])[:, None]
        scores = torch.stack([attention.scores[0] for attention in attentions])
        weights = torch.stack([attention.weights[0] for attention in attentions])
        return cls(weights.float(), scores.masked_fill(~seen, -math.inf).float())

    def as_lists(self) -> dict[str, Any]:
        """For JSON: hidden scores are None."""
        hidden = self.scores.isinf()
        scores = self.scores.masked_fill(hidden, 0.0).double()
        rows = [
            [[[None if h else s for h, s in zip(*row, strict=True)] for row in zip(*m, strict=True)]
             for m in zip(*layer, strict=True)]
            for layer in zip(hidden.tolist(), rounded(scores), strict=True)
        ]  # fmt: skip
        return {"weights": rounded(self.weights.double()), "scores": rows}


@dataclass(frozen=True)
class Walk:
    """`data` holds what is shown, ready for JSON; `maps` are the attention maps by name: "maps", and of an
    encoder-decoder also "cross_maps", of the target at the source, and "source_maps"."""

    data: dict[str, Any]
    maps: dict[str, Maps]

    @property
    def weights(self) -> Tensor:
        """[L, H, T, T], of the tokens at each other; of an encoder-decoder the target's."""
        return self.maps["maps"].weights

    @property
    def scores(self) -> Tensor:
        """[L, H, T, T]; one that is hidden is -inf."""
        return self.maps["maps"].scores

    def save(self, path: str | Path) -> Path:
        """Everything as JSON; hidden scores are null."""
        maps = {name: maps.as_lists() for name, maps in self.maps.items()}
        write_json(path, {**self.data, **maps})
        return Path(path)


def walk(
    model: Model, tokenizer: Tokenizer, text: str, question: Question | None = None, *,
    name: str = "model", note: str = "", progress: Callable[[str], None] = lambda _: None,
) -> Walk:  # fmt: skip
    """Takes `text` through `model`, and compares with what the fused kernels compute.

    Models of up to 10 M parameters are computed in float64, others in float32.

    `name` and `note` are shown; progress(what) is called before each part.
    Raises ValueError for a text or a target that does not fit.
    """
    question = question or Question()
    if isinstance(model, EncoderDecoder) and question.target is None:
        progress("translating")
    reading = read(model, tokenizer, text, question)
    ids, T, usual = reading.ids, len(reading.ids), len(reading.ids) - 1
    if isinstance(model, Encoder):
        usual = min(1, T - 1)
    elif isinstance(model, EncoderDecoder):
        usual = max(0, T - 2)
    position = question.position_of(T, usual)
    _check_size(model, reading)
    progress("computing the sentence")
    with torch.no_grad():
        found = trace(
            model, ids, types=reading.types, source=reading.source, dtype=dtype_for(model)
        )
    show = Shown(model, tokenizer, question, text, reading, position, found)
    data: dict[str, Any] = {
        "text": text,
        "asked": question.asked,
        "target": None if reading.source is None else tokenizer.decode(ids[1:]),
        "model": show.facts(name, note),
        "position": position,
        "tokens": [{"id": i, "text": t} for i, t in zip(ids, show.labels, strict=True)],
        "sections": sections(model, T, len(reading.source_ids or ())),
        "embedding": show.embedding(found),
        "layers": [show.layer(layer) for layer in found.layers],
        "final": vectors(found.final[0], question.numbers),
    }
    if found.source is not None:
        data["source"] = show.source(found.source)
    if found.copying is not None:
        data["copying"] = show.copying(found.copying)
    if found.pooled is not None:
        data["pooled"] = vectors(found.pooled[0], question.numbers)
    if found.logits is not None:
        data["rows"] = show.rows
        data["predictions"] = show.predictions(found.logits[0])
    if reading.window is not None:
        data["answers"] = show.answers(reading.window)
    if found.says is not None:
        data["lens"] = show.lens()
    targets = show.targets()
    progress("comparing with the fused kernels")
    data["check"] = show.check(targets)
    if targets is not None and question.steps:
        progress("learning from the sentence")
        learned = explain_step(
            model, ids, targets, question.adam, types=reading.types, source=reading.source,
            steps=question.steps, numbers=question.numbers, dtype=dtype_for(model),
        )  # fmt: skip
        data["loss"] = show.loss(targets, learned)
        data["learning"] = show.learning(learned)
    if question.attribution_steps and found.logits is not None:
        progress("asking which tokens did it")
        data["attribution"] = show.attribution(targets)
    # What is left out is not spoken of either.
    absent = {"loss": "loss", "gradients": "learning", "adam": "learning",
              "attribution": "attribution"}  # fmt: skip
    for section, needed in absent.items():
        if needed not in data:
            data["sections"].pop(section, None)
    maps = {"maps": Maps.of([layer.attention for layer in found.layers])}
    if found.source is not None:
        crossed = [layer.cross for layer in found.layers if layer.cross is not None]
        maps["cross_maps"] = Maps.of(crossed)
        maps["source_maps"] = Maps.of([layer.attention for layer in found.source.layers])
    return Walk(data, maps)


def _check_size(model: Model, reading: Reading) -> None:
    config, T = layers_of(model), len(reading.ids)
    if isinstance(model, EncoderDecoder):
        S = len(reading.source_ids or ())
        maps = model.config.layers * S * S + model.config.decoder_layers * T * (T + S)
        if maps * config.heads > MOST_WEIGHTS:
            raise ValueError(
                f"walk: text and target have {S} and {T} tokens, which would make"
                f" {maps * config.heads:,} attention weights; expected at most {MOST_WEIGHTS:,}"
            )
        return
    if config.layers * config.heads * T * T > MOST_WEIGHTS:
        most = math.isqrt(MOST_WEIGHTS // (config.layers * config.heads))
        raise ValueError(
            f"walk: the text has {T} tokens, and {config.layers} layers of {config.heads} heads would"
            f" make {config.layers * config.heads * T * T:,} attention weights; expected at most"
            f" {most} tokens"
        )
