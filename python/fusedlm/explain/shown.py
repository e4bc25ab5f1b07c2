"""What a walk shows, ready for JSON: one method a part."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.models import (
    Decoder,
    DecoderClassifier,
    EncoderConfig,
    EncoderDecoder,
    ModelConfig,
)
from fusedlm.models.packed import Packed
from fusedlm.models.spans import Answer, Window, answers_in

from .attribution import integrated_gradients
from .labels import token_label, token_labels
from .learning import Learned, gradients_of, loss_of, trainable
from .lens import logit_lens
from .plain import Attention
from .question import Question
from .reading import Reading
from .record import Copied, Layer, Trace
from .rounding import rounded, six, vectors
from .tracing import Model, dtype_for, layers_of, task_of, trace


@dataclass(frozen=True)
class Shown:
    """The parts of a walk, one a method."""

    model: Model
    tokenizer: Tokenizer
    question: Question
    text: str
    reading: Reading
    position: int
    found: Trace

    @property
    def labels(self) -> list[str]:
        return token_labels(self.tokenizer, self.reading.ids)

    def name_of(self, index: int) -> str:
        """Of a class, a place in the text, or a decoder's token."""
        if task_of(self.model) == "span":
            return self.labels[index]
        if isinstance(self.model, Decoder | EncoderDecoder) or self.model.config.labels is None:
            return token_label(self.tokenizer, index)
        names: list[str] = self.model.config.labels
        return names[index]

    @property
    def rows(self) -> list[str] | None:
        """What the rows of logits are called; None: as the tokens."""
        return {"sequence": ["the text"], "span": ["first", "last"]}.get(task_of(self.model) or "")

    @property
    def source_labels(self) -> list[str]:
        return token_labels(self.tokenizer, self.reading.source_ids or ())

    def facts(self, name: str, note: str) -> dict[str, Any]:
        config, model = layers_of(self.model), self.model
        kind = {ModelConfig: "decoder", EncoderConfig: "encoder"}.get(
            type(config), "encoder-decoder"
        )
        task = task_of(self.model)
        does = " that finds answers" if task == "span" else " that classifies" if task else ""
        return {
            "name": name, "note": note, "kind": kind,
            "what": f"{'a' if kind == 'decoder' else 'an'} {kind}{does}",
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "layers": len(self.found.layers),
            "source_layers": model.config.layers if isinstance(model, EncoderDecoder) else None,
            "width": config.width, "heads": config.heads,
            "kv_heads": getattr(config, "kv_heads", config.heads), "head_width": config.head_width,
            "ffn_width": config.ffn_width, "vocab_size": config.vocab_size,
            "windows": getattr(config, "windows", None), "task": task,
            "numbers": self.question.numbers,
        }  # fmt: skip

    def source(self, found: Trace) -> dict[str, Any]:
        """What the encoder of an encoder-decoder does; `position` is the token that the target's looks at
        most in the last layer."""
        cross = self.found.layers[-1].cross
        assert cross is not None  # as there is a source
        ids = self.reading.source_ids or ()
        return {
            "position": int(cross.weights[0, :, self.position].mean(0).argmax()),
            "tokens": [{"id": i, "text": t} for i, t in zip(ids, self.source_labels, strict=True)],
            "embedding": self.embedding(found),
            "layers": [self.layer(layer) for layer in found.layers],
            "final": vectors(found.final[0], self.question.numbers),
        }

    def copying(self, found: Copied) -> dict[str, Any]:
        """The share of copying [T], and of each of the source's tokens in it [T, S]."""
        return {"share": rounded(found.gate[0].sigmoid()), "weights": rounded(found.weights[0])}

    def embedding(self, found: Trace) -> dict[str, list[Any]]:
        parts = {name: rows[0] for name, rows in found.parts.items()}
        parts["sum"] = found.embeddings[0]
        if found.first is not found.embeddings:
            parts["normed"] = found.first[0]
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
        shown = {name: vectors(x[0], n) for name, x in rows.items() if x is not None}
        shown["spread"] = _spread(attention)
        if layer.cross is None or layer.cross_in is None or layer.crossed is None:
            return shown
        cross = {
            "input": layer.middle, "attention_in": layer.cross_in, "query": layer.cross.query,
            "key": layer.cross.key, "value": layer.cross.value, "mixed": layer.cross.mixed,
            "out": layer.cross.out, "middle": layer.crossed,
        }  # fmt: skip
        inside = {name: vectors(x[0], n) for name, x in cross.items()}
        return {**shown, "cross": {**inside, "spread": _spread(layer.cross)}}

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
        found = logit_lens(self.model, self.reading.ids, top=top, found=self.found)
        return {
            "tokens": [
                [[self.name_of(i) for i in row] for row in rows] for rows in found.tokens.tolist()
            ],
            "p": rounded(found.probabilities), "last": rounded(found.last),
            "rank": found.rank.tolist(),
        }  # fmt: skip

    def targets(self) -> Tensor | None:
        """What the model should say: [1, T], or [1] of a classifier of sequences, or [1, 2], the first and
        the last token of an answer; None: nothing."""
        wanted = self.question.target
        if isinstance(self.model, EncoderDecoder):
            return torch.tensor([[*self.reading.ids[1:], self.model.config.end_id]])
        if isinstance(self.model, Decoder):
            ignored = last = self.model.config.ignore_index
            if wanted is not None:
                tokens = self.tokenizer.encode(wanted)
                if not tokens:
                    raise ValueError(f"walk: target is {wanted!r}, which has no tokens")
                last = tokens[0]
            row = [*self.reading.ids[1:], last]
            return None if set(row) == {ignored} else torch.tensor([row])
        if self.reading.window is not None:
            return torch.tensor([self._span(self.reading.window, wanted)])
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

    def _span(self, window: Window, wanted: str | None) -> tuple[int, int]:
        """The tokens of the wanted answer, or of the likeliest; of none, twice the very first."""
        if wanted is None:
            best = max(self._answers(window), key=lambda answer: answer.score)
            start, end = best.start, best.end
        else:
            start = self.text.find(wanted)
            end = start + len(wanted)
        if start == end:
            return 0, 0
        found = None if start < 0 else window.tokens_of(start, end)
        if found is None:
            raise ValueError(f"walk: target is {wanted!r}, expected a part of the text")
        return found

    def _answers(self, window: Window) -> list[Answer]:
        logits, top = self.found.known_logits[0].mT.float(), self.question.top
        pairs = [(self.question.asked or "", self.text)]
        return answers_in(pairs, [window], [logits], top=top)[0]

    def answers(self, window: Window) -> list[dict[str, Any]]:
        """The likeliest answers, best first, and at last "no answer"."""
        return [
            {"text": answer.text, "score": six(answer.score), "p": six(answer.probability)}
            for answer in self._answers(window)
        ]

    def check(self, targets: Tensor | None) -> dict[str, float]:
        """How far the fused kernels are from the plain ones, as shares of the largest number."""
        model, reading = self.model, self.reading
        ids = torch.tensor([reading.ids])
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                fused = _fused(model, reading, None)
            plain = self.found.final if self.found.logits is None else self.found.logits
            result = {
                "logits" if self.found.logits is not None else "last layer": _off(fused, plain)
            }
            if targets is None or not self.question.steps:
                return result
            weights = trainable(model, dtype_for(model), copy=False)
            loss = _fused(model, reading, targets)
            trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
            grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        finally:
            model.train(training)
        _, expected, plain_grads = gradients_of(
            model, ids, targets, weights, types=reading.types, source=reading.source
        )
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
            after = trace(
                self.model, self.reading.ids, types=self.reading.types,
                source=self.reading.source, weights=learned.weights,
            )  # fmt: skip
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
        guessed = None
        if self.question.target is None:
            guessed = _GUESSED.get(task_of(self.model) or type(self.model).__name__)
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
        target: int | tuple[int, int] | None = None
        task = task_of(self.model)
        if targets is not None and task == "span":
            target = int(targets[0, 0]), int(targets[0, 1])
        elif targets is not None and isinstance(self.model, EncoderDecoder):
            target = int(targets[0, self.position])
        elif self.question.target is not None and targets is not None:
            target = int(targets.flatten()[-1])
        asked = task == "token" or isinstance(self.model, EncoderDecoder)
        position = self.position if asked else None
        found = integrated_gradients(
            self.model, self.reading.ids, types=self.reading.types,
            source=self.reading.source, target=target, position=position,
            steps=max(32, self.question.attribution_steps),
        )  # fmt: skip
        where = "" if found.position is None else self.labels[found.position]
        if where:
            where = f" {'after' if task is None else 'at'} {where}"
        return {
            "target": self._name_of_target(found.target), "where": where, "baseline": found.baseline,
            "position": found.position, "scores": rounded(found.scores),
            "before": six(found.before), "after": six(found.after), "gap": six(found.gap),
            "relative_gap": six(found.relative_gap), "steps": found.steps,
        }  # fmt: skip

    def _name_of_target(self, target: int | tuple[int, int]) -> str:
        if not isinstance(target, tuple):
            return self.name_of(target)
        first, last = target
        if self.reading.window is None or last == 0:
            return "no answer"
        spans = self.reading.window.spans
        return self.text[spans[first][0] : spans[last][1]]


def _off(found: Tensor, expected: Tensor) -> float:
    return six((found - expected).abs().max() / expected.abs().max())


def _spread(attention: Attention) -> list[Any]:
    """How many tokens each head looks at: 2 to the power of the entropy, its mean over the tokens."""
    shares = attention.weights[0]
    entropy = -(shares * shares.clamp_min(1e-30).log2()).sum(-1)
    return rounded(entropy.mean(-1).exp2())


def _fused(model: Model, reading: Reading, targets: Tensor | None) -> Tensor:
    ids = torch.tensor([reading.ids])
    found: Tensor
    if isinstance(model, EncoderDecoder):
        source, target = model.pack_sources([reading.source or []]), Packed.of(ids.tolist())
        found = model(source, target, None if targets is None else targets.flatten())
        found = found[None] if targets is None else found
    elif isinstance(model, Decoder):
        found = model(ids, targets)
    elif isinstance(model, DecoderClassifier):
        rows = None if targets is None else targets.flatten()
        found = model.classify_packed(Packed.of(ids.tolist()), rows)
        found = found[None] if targets is None and model.config.task == "token" else found
    elif model.classifier is None:
        found = model(ids)
    else:
        kinds = None if reading.types is None else torch.tensor([reading.types])
        found = model.classify(ids, types=kinds, targets=targets)
        found = found.mT if targets is None and model.config.task == "span" else found
    return found


_GUESSED = {
    "sequence": "No class was given: the likeliest stands for the right one.",
    "token": "No class was given: the likeliest stands for the right one.",
    "span": "No answer was given: the likeliest stands for the right one.",
    "EncoderDecoder": "No translation was given: what beam search finds stands for the right one.",
}
# Decoders and encoders have blocks, an encoder-decoder layers of both kinds.
_LAYER = re.compile(r"(?:(?:decoder\.)?blocks|(encoder|decoder))\.(\d+)\.(ffn|cross)?")
_PARTS = {
    "token_weight": "embedding", "position_weight": "embedding", "type_weight": "embedding",
    "embedding_norm": "embedding", "part_weight": "embedding", "final_norm": "last norm",
    "encoder_norm": "last norm of the encoder", "ngrams": "n-grams",
}  # fmt: skip


def _part_of(parameter: str) -> tuple[str, int | None]:
    """The part of the model that a parameter belongs to, and its layer, if that is one."""
    if inside := _LAYER.match(parameter):
        side, number, part = inside.groups()
        named = {"ffn": "feed-forward", "cross": "attention to the source"}.get(part, "attention")
        return f"{side + ' ' if side else ''}layer {number}, {named}", int(number)
    first = parameter.removeprefix("decoder.").split(".")[0]
    return _PARTS.get(first, first), None
