"""One sentence through a model, from tokens to the optimizer's step: everything to be shown, in one place.

`walk` computes it, `print_walk` shows it in a terminal and `write_page` as a page. Vectors are kept as
[length, first numbers ...]: as many numbers as are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.models import Decoder
from fusedlm.models.files import write_json

from .attribution import integrated_gradients
from .labels import token_label, token_labels
from .learning import AdamSettings, Learned, explain_step, gradients_of, loss_of, trainable
from .lens import logit_lens
from .rounding import rounded, six, vectors
from .tracing import Layer, Model, Trace, dtype_for, trace
from .words import sections

MOST_WEIGHTS = 1 << 21  # attention weights in one walk: 16 MB of a page, with the scores


@dataclass(frozen=True)
class Question:
    """What to look at. `numbers` are shown of each vector, `top` of the likeliest tokens or classes.

    `target` is the token that should come after the text (its first, if it is cut into several) or the
    class; None leaves the last token of a decoder without one, and takes the likeliest class. `steps` of
    `adam` are made, 0 leaves out loss and learning; attribution takes at most `attribution_steps`
    gradients, 0 leaves it out.
    """

    numbers: int = 8
    top: int = 5
    target: str | None = None
    steps: int = 3
    adam: AdamSettings = field(default_factory=AdamSettings)
    attribution_steps: int = 512

    def __post_init__(self) -> None:
        for name, least in (("numbers", 1), ("top", 1), ("steps", 0), ("attribution_steps", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(
                    f"Question: {name} is {value!r}, expected an integer of at least {least}"
                )


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
    if getattr(model.config, "task", None) == "span":
        raise ValueError(
            "walk: the encoder finds answers, for which it reads two texts; expected one"
        )
    ids = tokenizer.encode(text, add_special=True)
    if not ids:
        raise ValueError(f"walk: text is {text!r}, which has no tokens")
    config, T = model.config, len(ids)
    if config.layers * config.heads * T * T > MOST_WEIGHTS:
        most = math.isqrt(MOST_WEIGHTS // (config.layers * config.heads))
        raise ValueError(
            f"walk: the text has {T} tokens, and {config.layers} layers of {config.heads} heads would"
            f" make {config.layers * config.heads * T * T:,} attention weights; expected at most"
            f" {most} tokens"
        )
    progress("computing the sentence")
    with torch.no_grad():
        found = trace(model, ids, dtype=dtype_for(model))
    show = _Shown(model, tokenizer, question, ids, found)
    data: dict[str, Any] = {
        "text": text,
        "model": show.model(name, note),
        "tokens": [{"id": i, "text": t} for i, t in zip(ids, show.labels, strict=True)],
        "sections": sections(model, T),
        "embedding": show.embedding(),
        "layers": [show.layer(layer) for layer in found.layers],
        "final": vectors(found.final[0], question.numbers),
    }
    if found.pooled is not None:
        data["pooled"] = vectors(found.pooled[0], question.numbers)
    if found.logits is not None:
        data["predictions"] = show.predictions(found.logits[0])
    if isinstance(model, Decoder):
        data["lens"] = show.lens()
    targets = show.targets()
    progress("comparing with the fused kernels")
    data["check"] = show.check(targets)
    if targets is not None and question.steps:
        progress("learning from the sentence")
        learned = explain_step(
            model, ids, targets, question.adam, steps=question.steps, numbers=question.numbers,
            dtype=dtype_for(model),
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


@dataclass(frozen=True)
class _Shown:
    """The parts of a walk, one a method."""

    model_: Model
    tokenizer: Tokenizer
    question: Question
    ids: list[int]
    found: Trace

    @property
    def labels(self) -> list[str]:
        return token_labels(self.tokenizer, self.ids)

    @property
    def classes(self) -> list[str] | None:
        """The names of a classifier's classes; None of a decoder, whose classes are tokens."""
        return None if isinstance(self.model_, Decoder) else self.model_.config.labels

    def name_of(self, index: int) -> str:
        return self.classes[index] if self.classes else token_label(self.tokenizer, index)

    def model(self, name: str, note: str) -> dict[str, Any]:
        config = self.model_.config
        decoder = isinstance(self.model_, Decoder)
        return {
            "name": name, "note": note, "kind": "decoder" if decoder else "encoder",
            "parameters": sum(p.numel() for p in self.model_.parameters()),
            "layers": config.layers, "width": config.width, "heads": config.heads,
            "kv_heads": config.kv_heads, "head_width": config.head_width,
            "ffn_width": config.ffn_width, "vocab_size": config.vocab_size,
            "windows": config.windows if decoder else None, "task": getattr(config, "task", None),
            "numbers": self.question.numbers,
        }  # fmt: skip

    def embedding(self) -> dict[str, list[Any]]:
        parts = {name: rows[0] for name, rows in self.found.parts.items()}
        parts["sum"] = self.found.embeddings[0]
        if self.found.first is not self.found.embeddings:
            parts["normed"] = self.found.first[0]
        return {name: vectors(rows, self.question.numbers) for name, rows in parts.items()}

    def layer(self, layer: Layer) -> dict[str, Any]:
        attention, ffn, n = layer.attention, layer.ffn, self.question.numbers
        rows = {
            "input": layer.input, "attention_in": layer.attention_in, "query": attention.query,
            "key": attention.key, "value": attention.value, "query_used": attention.query_used,
            "key_used": attention.key_used, "mixed": attention.mixed, "out": attention.out,
            "middle": layer.middle, "ffn_in": layer.ffn_in, "up": ffn.up, "gate": ffn.gate,
            "hidden": ffn.hidden, "ffn_out": ffn.out, "output": layer.output,
        }  # fmt: skip
        if attention.query_used is attention.query:
            del rows["query_used"], rows["key_used"]
        shares = attention.weights[0]
        entropy = -(shares * shares.clamp_min(1e-30).log2()).sum(-1)
        return {
            **{name: vectors(x[0], n) for name, x in rows.items() if x is not None},
            "spread": rounded(entropy.mean(-1).exp2()),
        }

    def predictions(self, logits: Tensor) -> list[list[dict[str, Any]]]:
        """The likeliest after every token, or the likeliest classes."""
        rows = logits if logits.dim() == 2 else logits[None]
        shares = rows.softmax(-1)
        best = shares.topk(min(self.question.top, shares.shape[-1]))
        return [
            [
                {"id": i, "text": self.name_of(i), "logit": six(rows[t, i]), "p": six(p)}
                for i, p in zip(best.indices[t].tolist(), best.values[t].tolist(), strict=True)
            ]
            for t in range(rows.shape[0])
        ]

    def lens(self) -> dict[str, Any]:
        top = min(self.question.top, self.model_.config.vocab_size)
        found = logit_lens(self.model_, self.ids, top=top, found=self.found)
        return {
            "tokens": [[token_labels(self.tokenizer, row) for row in rows] for rows in found.tokens],
            "p": rounded(found.probabilities), "last": rounded(found.last),
            "rank": found.rank.tolist(),
        }  # fmt: skip

    def targets(self) -> Tensor | None:
        """What the model should say: [1, T], or [1] of a classifier of sequences; None: nothing."""
        wanted, config = self.question.target, self.model_.config
        if isinstance(self.model_, Decoder):
            last = config.ignore_index
            if wanted is not None:
                tokens = self.tokenizer.encode(wanted)
                if not tokens:
                    raise ValueError(f"walk: target is {wanted!r}, which has no tokens")
                last = tokens[0]
            row = [*self.ids[1:], last]
            return None if set(row) == {config.ignore_index} else torch.tensor([row])
        if config.task is None:
            if wanted is not None:
                raise ValueError("walk: target is given, and the encoder has no classifier")
            return None
        if wanted is None:
            return self.found.known_logits.argmax(-1)
        if config.task == "token":
            raise ValueError("walk: target is given, and the classifier is one of tokens")
        if wanted not in config.labels:
            raise ValueError(
                f"walk: target is {wanted!r}, expected one of {', '.join(config.labels)}"
            )
        return torch.tensor([config.labels.index(wanted)])

    def check(self, targets: Tensor | None) -> dict[str, float]:
        """How far the fused kernels are from the plain ones, as shares of the largest number."""
        model, ids = self.model_, torch.tensor([self.ids])
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                fused = _fused(model, ids, None)
            plain = self.found.final if self.found.logits is None else self.found.logits
            result = {
                "logits" if self.found.logits is not None else "last layer": _off(fused, plain)
            }
            if targets is None or not self.question.steps:
                return result
            weights = trainable(model, dtype_for(model), copy=False)
            loss = _fused(model, ids, targets)
            trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
            grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        finally:
            model.train(training)
        _, expected, plain_grads = gradients_of(model, ids, targets, weights)
        pairs = [
            (grad.to_dense() if grad.is_sparse else grad, plain_grads[name])
            for name, grad in zip(trained, grads, strict=True)
            if grad is not None
        ]
        largest = max(float(plain.abs().max()) for _, plain in pairs)
        off = max(float((fused - plain).abs().max()) for fused, plain in pairs)
        return {
            **result, "loss": _off(loss.detach(), expected), "gradients": six(off / largest),
        }  # fmt: skip

    def loss(self, targets: Tensor, learned: Learned) -> dict[str, Any]:
        """-log p of every target, before and after the steps."""
        with torch.no_grad():
            after = trace(self.model_, self.ids, weights=learned.weights)
        rows = targets.reshape(-1)
        shares = [x.known_logits.flatten(0, -2).log_softmax(-1) for x in (self.found, after)]
        ignored = getattr(self.model_.config, "ignore_index", -100)
        each = [
            {
                "position": t, "target": self.name_of(i), "p": six(shares[0][t, i].exp()),
                "loss": six(-shares[0][t, i]), "p_after": six(shares[1][t, i].exp()),
            }
            for t, i in enumerate(rows.tolist())
            if i != ignored
        ]  # fmt: skip
        guessed = not isinstance(self.model_, Decoder) and self.question.target is None
        mean = six(loss_of(self.model_, self.found, targets))
        return {"each": each, "mean": mean, "guessed": guessed}

    def learning(self, learned: Learned) -> dict[str, Any]:
        groups: dict[str, list[float]] = {}
        for parameter in learned.parameters:
            group = groups.setdefault(_part_of(parameter.name), [0, 0.0, 0.0])
            group[0] += math.prod(parameter.shape)
            group[1] += parameter.norm**2
            group[2] += parameter.gradient_norm**2
        settings = learned.settings
        return {
            "settings": {
                "lr": settings.lr, "beta1": settings.betas[0], "beta2": settings.betas[1],
                "eps": settings.eps, "decay": settings.weight_decay,
                "limit": settings.max_grad_norm,
            },
            "losses": [six(loss) for loss in learned.losses],
            "norms": [six(norm) for norm in learned.gradient_norms],
            "clips": [six(clip) for clip in learned.clips],
            "groups": [
                {"name": name, "count": n, "norm": six(math.sqrt(w)), "gradient": six(math.sqrt(g))}
                for name, (n, w, g) in groups.items()
            ],
            "parameters": [
                {
                    "name": p.name, "shape": p.shape, "norm": six(p.norm),
                    "gradient_norm": six(p.gradient_norm), "row": list(p.index[:-1]),
                    "values": [six(x) for x in p.values],
                    "gradients": [six(x) for x in p.gradients], "index": list(p.index),
                    "entry": [{n: six(x) for n, x in vars(e).items()} for e in p.entry],
                }
                for p in learned.parameters
            ],
        }  # fmt: skip

    def attribution(self, targets: Tensor | None) -> dict[str, Any]:
        """For the given target, or else for what the model says."""
        target, position = None, None
        if self.question.target is not None and targets is not None:
            target = int(targets.flatten()[-1])
        if getattr(self.model_.config, "task", None) == "token":
            position = len(self.ids) - 1
        found = integrated_gradients(
            self.model_, self.ids, target=target, position=position,
            steps=max(32, self.question.attribution_steps),
        )  # fmt: skip
        return {
            "target": self.name_of(found.target), "baseline": found.baseline,
            "position": found.position, "scores": rounded(found.scores),
            "before": six(found.before), "after": six(found.after), "gap": six(found.gap),
            "relative_gap": six(found.relative_gap), "steps": found.steps,
        }  # fmt: skip


def _off(found: Tensor, expected: Tensor) -> float:
    return six((found - expected).abs().max() / expected.abs().max())


def _fused(model: Model, ids: Tensor, targets: Tensor | None) -> Tensor:
    found: Tensor
    if isinstance(model, Decoder):
        found = model(ids, targets)
    elif model.classifier is None:
        found = model(ids)
    else:
        found = model.classify(ids, targets=targets)
    return found


def _part_of(parameter: str) -> str:
    """The part of the model that a parameter belongs to."""
    if not parameter.startswith("blocks."):
        first = parameter.split(".")[0]
        return {
            "token_weight": "embedding", "position_weight": "embedding",
            "type_weight": "embedding", "embedding_norm": "embedding", "final_norm": "last norm",
            "ngrams": "n-grams",
        }.get(first, first)  # fmt: skip
    _, number, rest = parameter.split(".", 2)
    return f"layer {number}, {'feed-forward' if rest.startswith('ffn') else 'attention'}"
