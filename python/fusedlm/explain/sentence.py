"""One sentence through a model, from tokens to the optimizer's step: everything to be shown, in one place.

`walk` computes it, `print_walk` shows it in a terminal and `write_page` as a page. Vectors are kept as
[length, first numbers ...]: as many numbers as are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.models import ModelConfig
from fusedlm.models.files import write_json

from .learning import explain_step
from .question import Question
from .reading import read
from .rounding import rounded, vectors
from .shown import Shown
from .tracing import Model, dtype_for, layers_of, trace
from .words import sections

MOST_WEIGHTS = 1 << 21  # attention weights in one walk: 16 MB of a page, with the scores


@dataclass(frozen=True)
class Walk:
    """`data` holds what is shown, ready for JSON; `weights` and `scores` [L, H, T, T] the maps, where
    a score that is hidden is -inf."""

    data: dict[str, Any]
    weights: Tensor
    scores: Tensor

    def save(self, path: str | Path) -> Path:
        """Everything as JSON; hidden scores are null."""
        hidden = self.scores.isinf()
        scores = self.scores.masked_fill(hidden, 0.0).double()
        rows = [
            [[[None if h else s for h, s in zip(*row, strict=True)] for row in zip(*m, strict=True)]
             for m in zip(*layer, strict=True)]
            for layer in zip(hidden.tolist(), rounded(scores), strict=True)
        ]  # fmt: skip
        maps = {"weights": rounded(self.weights.double()), "scores": rows}
        write_json(path, {**self.data, "maps": maps})
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
    reading = read(model, tokenizer, text, question)
    ids, types = reading.ids, reading.types
    config, T = layers_of(model), len(ids)
    position = question.position_of(T, causal=isinstance(config, ModelConfig))
    if config.layers * config.heads * T * T > MOST_WEIGHTS:
        most = math.isqrt(MOST_WEIGHTS // (config.layers * config.heads))
        raise ValueError(
            f"walk: the text has {T} tokens, and {config.layers} layers of {config.heads} heads would"
            f" make {config.layers * config.heads * T * T:,} attention weights; expected at most"
            f" {most} tokens"
        )
    progress("computing the sentence")
    with torch.no_grad():
        found = trace(model, ids, types=types, dtype=dtype_for(model))
    show = Shown(model, tokenizer, question, text, reading, position, found)
    data: dict[str, Any] = {
        "text": text,
        "asked": question.asked,
        "model": show.facts(name, note),
        "position": position,
        "tokens": [{"id": i, "text": t} for i, t in zip(ids, show.labels, strict=True)],
        "sections": sections(model, T),
        "embedding": show.embedding(),
        "layers": [show.layer(layer) for layer in found.layers],
        "final": vectors(found.final[0], question.numbers),
    }
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
            model, ids, targets, question.adam, types=types, steps=question.steps,
            numbers=question.numbers, dtype=dtype_for(model),
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
    seen = torch.stack([layer.attention.seen for layer in found.layers])[:, None]
    scores = torch.stack([layer.attention.scores[0] for layer in found.layers])
    weights = torch.stack([layer.attention.weights[0] for layer in found.layers])
    return Walk(data, weights.float(), scores.masked_fill(~seen, -math.inf).float())
