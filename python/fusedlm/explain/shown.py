"""What a walk shows, ready for JSON: one method a part."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.models import Decoder, DecoderClassifier, ModelConfig
from fusedlm.models.packed import Packed

from .attribution import integrated_gradients
from .labels import token_label, token_labels
from .learning import Learned, gradients_of, loss_of, trainable
from .lens import logit_lens
from .question import Question
from .record import Layer, Trace
from .rounding import rounded, six, vectors
from .tracing import Model, dtype_for, layers_of, task_of, trace


@dataclass(frozen=True)
class Shown:
    """The parts of a walk, one a method."""

    model: Model
    tokenizer: Tokenizer
    question: Question
    ids: list[int]
    position: int
    found: Trace

    @property
    def labels(self) -> list[str]:
        return token_labels(self.tokenizer, self.ids)

    def name_of(self, index: int) -> str:
        """Of a class, or of a decoder's token."""
        if isinstance(self.model, Decoder) or self.model.config.labels is None:
            return token_label(self.tokenizer, index)
        names: list[str] = self.model.config.labels
        return names[index]

    def facts(self, name: str, note: str) -> dict[str, Any]:
        config = layers_of(self.model)
        decoder = isinstance(config, ModelConfig)
        kind = "decoder" if decoder else "encoder"
        task = task_of(self.model)
        return {
            "name": name, "note": note, "kind": kind,
            "what": f"{'a' if decoder else 'an'} {kind}{' that classifies' if task else ''}",
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "layers": config.layers, "width": config.width, "heads": config.heads,
            "kv_heads": config.kv_heads, "head_width": config.head_width,
            "ffn_width": config.ffn_width, "vocab_size": config.vocab_size,
            "windows": config.windows if decoder else None, "task": task,
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
        top = min(self.question.top, self.found.known_logits.shape[-1])
        found = logit_lens(self.model, self.ids, top=top, found=self.found)
        return {
            "tokens": [
                [[self.name_of(i) for i in row] for row in rows] for rows in found.tokens.tolist()
            ],
            "p": rounded(found.probabilities), "last": rounded(found.last),
            "rank": found.rank.tolist(),
        }  # fmt: skip

    def targets(self) -> Tensor | None:
        """What the model should say: [1, T], or [1] of a classifier of sequences; None: nothing."""
        wanted = self.question.target
        if isinstance(self.model, Decoder):
            ignored = last = self.model.config.ignore_index
            if wanted is not None:
                tokens = self.tokenizer.encode(wanted)
                if not tokens:
                    raise ValueError(f"walk: target is {wanted!r}, which has no tokens")
                last = tokens[0]
            row = [*self.ids[1:], last]
            return None if set(row) == {ignored} else torch.tensor([row])
        config = self.model.config
        if config.labels is None:
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
        model, ids = self.model, torch.tensor([self.ids])
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
            after = trace(self.model, self.ids, weights=learned.weights)
        rows = targets.reshape(-1)
        shares = [x.known_logits.flatten(0, -2).log_softmax(-1) for x in (self.found, after)]
        ignored = getattr(self.model.config, "ignore_index", -100)
        each = [
            {
                "position": t, "target": self.name_of(i), "p": six(shares[0][t, i].exp()),
                "loss": six(-shares[0][t, i]), "p_after": six(shares[1][t, i].exp()),
            }
            for t, i in enumerate(rows.tolist())
            if i != ignored
        ]  # fmt: skip
        guessed = not isinstance(self.model, Decoder) and self.question.target is None
        mean = six(loss_of(self.model, self.found, targets))
        return {"each": each, "mean": mean, "guessed": guessed}

    def learning(self, learned: Learned) -> dict[str, Any]:
        groups: dict[tuple[str, int | None], list[float]] = {}
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
                {"name": name, "layer": layer, "count": n, "norm": six(math.sqrt(w)),
                 "gradient": six(math.sqrt(g))}
                for (name, layer), (n, w, g) in groups.items()
            ],
            "parameters": [
                {
                    "name": p.name, "layer": _part_of(p.name)[1], "shape": p.shape, "norm": six(p.norm),
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
        target = None
        if self.question.target is not None and targets is not None:
            target = int(targets.flatten()[-1])
        task = task_of(self.model)
        position = self.position if task == "token" else None
        found = integrated_gradients(
            self.model, self.ids, target=target, position=position,
            steps=max(32, self.question.attribution_steps),
        )  # fmt: skip
        where = "" if found.position is None else self.labels[found.position]
        if where:
            where = f" {'after' if task is None else 'at'} {where}"
        return {
            "target": self.name_of(found.target), "where": where, "baseline": found.baseline,
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
    elif isinstance(model, DecoderClassifier):
        rows = None if targets is None else targets.flatten()
        found = model.classify_packed(Packed.of(ids.tolist()), rows)
        found = found[None] if targets is None and model.config.task == "token" else found
    else:
        found = model(ids) if model.classifier is None else model.classify(ids, targets=targets)
    return found


_LAYER = re.compile(r"(?:decoder\.)?blocks\.(\d+)\.(ffn)?")
_PARTS = {
    "token_weight": "embedding", "position_weight": "embedding", "type_weight": "embedding",
    "embedding_norm": "embedding", "final_norm": "last norm", "ngrams": "n-grams",
}  # fmt: skip


def _part_of(parameter: str) -> tuple[str, int | None]:
    """The part of the model that a parameter belongs to, and its layer, if that is one."""
    if inside := _LAYER.match(parameter):
        number, ffn = inside.groups()
        return f"layer {number}, {'feed-forward' if ffn else 'attention'}", int(number)
    first = parameter.removeprefix("decoder.").split(".")[0]
    return _PARTS.get(first, first), None
