"""The encoder-decoder once more, in plain torch: one pair at a time, no packing, no ops of ours."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedlm.models import EncoderDecoderConfig
from fusedlm.train.pair_batches import Rows

from .twin import Twin


class EncoderDecoderTwin(Twin):
    """Logits and loss of pairs of token lists, by torch.nn.functional."""

    def __init__(
        self, config: EncoderDecoderConfig, weights: dict[str, Tensor],
        dtype: torch.dtype = torch.float64,
    ) -> None:  # fmt: skip
        shape = {**config.to_dict(), "gated": config.gated, "rope_interleaved": False}
        super().__init__(SimpleNamespace(**shape), weights, dtype)
        self.heads = config.heads

    def logits_of(self, source: list[list[int]], target: list[int]) -> Tensor:
        """Of target without its end, which begins with the end token; `source` with its examples.

        With examples, log-probabilities.
        """
        x, memory = self._hidden(source, target)
        logits = x @ self.weights["embedding.weight"].T
        if not self.config.examples:
            return logits
        gate, copied = self._copies(x, source, target, memory)
        return ((1 - gate) * logits.softmax(-1) + gate * copied).log()

    def _copies(
        self, x: Tensor, source: list[list[int]], target: list[int], memory: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The share of copying [T, 1], and the probability that copying gives each token [T, V]."""
        tokens = [t for part in source for t in (*part, self.config.end_id)]
        written = [self.config.end_id, *target]
        key = self._linear(memory, "copying.key")
        query = self._linear(x, "copying.query")
        # How many of the tokens before each are those that a target ends with, at most 3.
        alike = torch.zeros(len(written), len(tokens), dtype=torch.int64)
        for t, s in itertools.product(range(len(written)), range(len(tokens))):
            ends, before = written[: t + 1], tokens[:s]
            alike[t, s] = max(
                n for n in range(4) if n == 0 or (n <= len(ends) and ends[-n:] == before[-n:])
            )
        follow = self.weights["copying.follow_weight"][alike]
        weights = (query @ key.T / math.sqrt(key.shape[1]) + follow).softmax(-1)
        copied = weights @ F.one_hot(torch.tensor(tokens), self.config.vocab_size).to(weights.dtype)
        most = self.weights["copying.gate_follow_weight"][alike.amax(1)]
        return (self._linear(x, "copying.gate") + most[:, None]).sigmoid(), copied

    def _hidden(self, source: list[list[int]], target: list[int]) -> tuple[Tensor, Tensor]:
        """The decoder's last layer [T, C], and the encoder's [S, C]."""
        config, end = self.config, [self.config.end_id]
        parts = [self._embed([*part, *end]) for part in source]
        if config.examples:
            parts = [x + self.weights["part_weight"][i] for i, x in enumerate(parts)]
        memory = torch.cat(parts)
        positions = torch.cat([torch.arange(len(part)) for part in parts])
        for layer in range(config.layers):
            memory = self._layer(f"encoder.{layer}.", memory, positions)
        memory = self._norm("encoder_norm", memory)
        x = self._embed([*end, *target])
        for layer in range(config.decoder_layers):
            x = self._layer(f"decoder.{layer}.", x, torch.arange(len(x)), memory)
        return self._norm("final_norm", x), memory

    def pairs_loss(self, rows: list[Rows], label_smoothing: float = 0.0) -> Tensor:
        """The mean over all tokens. With examples the smoothing is of the head's part alone."""
        losses = []
        for source, target in rows:
            x, memory = self._hidden(source, target)
            targets = torch.tensor([*target, self.config.end_id])
            logits = x @ self.weights["embedding.weight"].T
            loss = F.cross_entropy(
                logits, targets, label_smoothing=label_smoothing, reduction="none"
            )
            if self.config.examples:
                gate, copied = self._copies(x, source, target, memory)
                copied = copied.gather(1, targets[:, None])[:, 0]
                gate = gate[:, 0]
                loss = -((1 - gate) * (-loss).exp() + gate * copied).log()
            losses.append(loss)
        return torch.cat(losses).mean()

    def pairs_gradients(self, rows: list[Rows], label_smoothing: float) -> dict[str, Tensor]:
        values = list(self.weights.values())
        gradients = torch.autograd.grad(self.pairs_loss(rows, label_smoothing), values)
        return dict(zip(self.weights, gradients, strict=True))

    def _embed(self, tokens: list[int]) -> Tensor:
        x = self.weights["embedding.weight"][tokens]
        if self.config.position == "learned":
            x = x + self.weights["embedding.position_weight"][: len(tokens)]
        return x

    def _layer(self, at: str, x: Tensor, positions: Tensor, memory: Tensor | None = None) -> Tensor:
        normed = self._norm(at + "attention_norm", x)
        query, key, value = self._linear(normed, at + "attention.qkv").chunk(3, dim=-1)
        x = x + self._attend(
            at + "attention.", query, key, value, positions=positions, causal=memory is not None
        )
        if memory is not None:
            query = self._linear(self._norm(at + "cross_norm", x), at + "cross.query")
            key, value = self._linear(memory, at + "cross.key_value").chunk(2, dim=-1)
            x = x + self._attend(at + "cross.", query, key, value)
        return x + self._ffn(at + "ffn.", self._norm(at + "ffn_norm", x))

    def _attend(
        self, at: str, query: Tensor, key: Tensor, value: Tensor, *,
        positions: Tensor | None = None, causal: bool = False,
    ) -> Tensor:  # fmt: skip
        query, key, value = (
            t.unflatten(-1, (self.heads, -1)).transpose(0, 1)[None] for t in (query, key, value)
        )
        if positions is not None and self.config.position == "rope":
            query, key = (self._rotate_to(t, positions) for t in (query, key))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self._linear(mixed[0].transpose(0, 1).flatten(1), at + "out")

    def _rotate_to(self, x: Tensor, positions: Tensor) -> Tensor:
        """x [1, H, T, D], each token turned to a position of its own: as the last of so many."""
        rows = [
            self._rotate(x[:, :, [t] * (int(p) + 1)])[:, :, -1] for t, p in enumerate(positions)
        ]
        return torch.stack(rows, dim=2)
