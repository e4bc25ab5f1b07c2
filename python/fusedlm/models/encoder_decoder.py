"""A pre-norm transformer that reads one sequence and writes another (Vaswani et al. 2017, arXiv:1706.03762).

    source -> embedding -> [ norm -> attention -> + -> norm -> feed-forward -> + ] x L -> norm -> memory
    target -> embedding -> [ norm -> causal attention -> + -> norm -> attention to the memory -> +
                             -> norm -> feed-forward -> + ] x L -> norm -> head

One table embeds sources and targets and is the head (Press & Wolf 2017). Sequences are packed one
behind the other, so that padding is never computed. As in the decoder, a pair runs between the
layers: `stream`, the residual sum so far, and `branch`, which the next norm adds to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from fusedlm import ops
from fusedlm.nn import (
    CrossAttention,
    Embedding,
    FeedForward,
    Rope,
    SelfAttention,
)
from fusedlm.nn.basic import normal
from fusedlm.nn.dropout import dropout

from .checks import check_dtype
from .copying import Copying, tokens_before
from .encoder_decoder_config import EncoderDecoderConfig
from .packed import Packed
from .residual import added as added
from .residual import norm_of

Source = Sequence[Sequence[int]]  # tokens of a source and of its examples, without their ends


class Layer(nn.Module):
    """One layer of the encoder, or, with `cross`, of the decoder: (branch, stream) -> (branch, stream)."""

    def __init__(self, config: EncoderDecoderConfig, *, cross: bool) -> None:
        super().__init__()
        # As many branches add up in the stream as there are; this keeps its variance near one's (GPT-2).
        branches = 3 * config.decoder_layers if cross else 2 * config.layers
        bias, out_std = config.bias, 0.02 / math.sqrt(branches)
        self.dropout = config.dropout
        self.attention_norm = norm_of(config)
        self.attention = SelfAttention(
            config.width, config.heads, causal=cross, bias=bias, out_std=out_std
        )
        self.cross_norm = norm_of(config) if cross else None
        self.cross = None
        if cross:
            self.cross = CrossAttention(config.width, config.heads, bias=bias, out_std=out_std)
        self.ffn_norm = norm_of(config)
        self.ffn = FeedForward(
            config.width, config.ffn_width, activation=config.activation, bias=bias,
            out_std=out_std,
        )  # fmt: skip

    def forward(
        self, branch: Tensor, stream: Tensor | None, rope: Rope | None, packed: Packed,
        memory: Tensor | None = None, memory_starts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        x, stream = added(self.attention_norm, branch, stream)
        branch = self._drop(self.attention(x, rope, packed.positions, packed.starts))
        if self.cross is not None and self.cross_norm is not None:
            x, stream = self.cross_norm(branch, residual=stream)
            branch = self._drop(self.cross(x, memory, packed.starts, memory_starts))
        x, stream = self.ffn_norm(branch, residual=stream)
        return self._drop(self.ffn(x)), stream

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout) if self.dropout and self.training else x


class EncoderDecoder(nn.Module):
    """The model of `config`. Parameters are float32; `compute_dtype` sets activations.

    `forward` gives logits or the loss; `fusedlm.generate.beam_search` writes targets. Dropout falls on
    embeddings and on what is added to the stream, never on attention: that hides the words that a
    translation is of, and learning which belong together took twice as long on a synthetic task.
    """

    def __init__(
        self, config: EncoderDecoderConfig, compute_dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        learned = config.context if config.position == "learned" else 0
        self.embedding = Embedding(config.vocab_size, config.width, positions=learned)
        self.part_weight = normal(1 + config.examples, config.width) if config.examples else None
        self.rope = _rope(config)
        self.encoder = nn.ModuleList(Layer(config, cross=False) for _ in range(config.layers))
        self.encoder_norm = norm_of(config)
        self.decoder = nn.ModuleList(
            Layer(config, cross=True) for _ in range(config.decoder_layers)
        )
        self.final_norm = norm_of(config)
        self.copying = Copying(config.width) if config.examples else None
        # As large as in Nguyen & Salazar 2019 (arXiv:1910.05895) instead of 0.02: with weights so small,
        # attention is even at first, and it takes long until it finds which words belong together.
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(math.sqrt(2 / (5 * config.width)) / 0.02)
            if self.embedding.position_weight is not None:
                self.embedding.position_weight.copy_(_sinusoids(learned, config.width))

    @classmethod
    def empty(cls, config: EncoderDecoderConfig) -> EncoderDecoder:
        """For weights from a file: parameters on the meta device, so without memory of their own."""
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = cls(config)
        model.rope = _rope(config)
        return model

    def forward(
        self, source: Packed, target: Packed, targets: Tensor | None = None, *,
        label_smoothing: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """Logits [N, V] of the N packed target tokens, or the mean loss (float32) if given targets.

        A model that reads examples also copies, from them and the source; its logits are log-probabilities.

        Target i is read beside source i and begins with config.end_id. targets [N] int64 are the
        tokens that follow those of `target`; config.ignore_index is left out.
        """
        if len(source.starts) != len(target.starts):
            raise ValueError(
                f"EncoderDecoder: target packs {len(target.starts) - 1} sequences, expected"
                f" {len(source.starts) - 1} as source does"
            )
        self._check("target", target)
        memory = self.encode(source)
        branch, stream = self.embed(target.tokens[None], target.positions), None
        for layer in self.decoder:
            branch, stream = layer(branch, stream, self.rope, target, memory, source.starts)
        x, _ = self.final_norm(branch, residual=stream)
        x, weight = x[0], self.embedding.weight
        if targets is None:
            logits = ops.linear(x, weight)
            if self.copying is None:
                return logits
            copyable = self.copying.copyable(source, memory)[target.rows]
            written = tokens_before(target, ending_with=True)
            return self.copying.log_probabilities(x, logits, copyable, written)
        ignored = self.config.ignore_index
        losses = ops.linear_cross_entropy(
            x, weight, targets, ignore_index=ignored, label_smoothing=label_smoothing,
            reduction="mean" if self.copying is None else "none",
        )  # fmt: skip
        if self.copying is None:
            return losses
        losses = self.copying.loss(x, losses, target, targets, source, memory)
        return losses[targets != ignored].mean()

    def encode(self, source: Packed) -> Tensor:
        """What the decoder reads of packed sources: [1, M, C] in compute_dtype."""
        self._check("source", source)
        branch, stream = self.embed(source.tokens[None], source.positions, source.types), None
        for layer in self.encoder:
            branch, stream = layer(branch, stream, self.rope, source)
        memory: Tensor
        memory, _ = self.encoder_norm(branch, residual=stream)
        return memory

    def embed(self, tokens: Tensor, positions: Tensor, parts: Tensor | None = None) -> Tensor:
        """tokens [B, T] -> [B, T, C] in compute_dtype; `parts` [T]: 0 in a source, i in example i."""
        table: Tensor | None = self.embedding.position_weight
        if parts is not None and self.part_weight is None:
            raise ValueError("EncoderDecoder: parts is given, and this model reads no examples")
        if parts is not None and self.part_weight is not None:
            if table is None:
                table, positions = self.part_weight, parts
            else:
                # Positions and parts are looked up at once, in a table of all their sums: it is small.
                positions = positions + parts * len(table)
                table = (self.part_weight[:, None] + table).flatten(0, 1)
        x = ops.embedding(
            tokens, self.embedding.weight, position_weight=table,
            positions=None if table is None else positions, dtype=self.compute_dtype,
        )  # fmt: skip
        return dropout(x, self.config.dropout) if self.config.dropout and self.training else x

    def pack_sources(self, sources: Sequence[Source]) -> Packed:
        """Sources and their examples, each with its end token; one that is missing has the end alone.

        The positions of each begin at 0, so that the same place is the same in all of them, and in
        the target. Raises ValueError for a source with more examples than config.examples.
        """
        parts, end = 1 + self.config.examples, self.config.end_id
        for number, source in enumerate(sources):
            if len(source) > parts:
                raise ValueError(
                    f"EncoderDecoder: source {number} has {len(source) - 1} examples, expected at most"
                    f" {parts - 1}"
                )
        given = [[*source, *[[]] * (parts - len(source))] for source in sources]
        pieces = Packed.of([[*part, end] for source in given for part in source])
        starts = pieces.starts[::parts].contiguous()
        if parts == 1:
            return replace(pieces, starts=starts)
        types = torch.arange(parts).repeat(len(given)).repeat_interleave(pieces.lengths)
        return replace(pieces, starts=starts, types=types)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of activations: torch.float32 or torch.bfloat16."""
        return self._compute_dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype) -> None:
        self._compute_dtype = check_dtype("EncoderDecoder", "compute_dtype", dtype)

    def num_parameters(self) -> int:
        """Number of parameters, tied ones once."""
        return sum(p.numel() for p in self.parameters())

    def _check(self, name: str, packed: Packed) -> None:
        longest, context = int(packed.positions.max()) + 1, self.config.context
        if longest > context:
            raise ValueError(
                f"EncoderDecoder: {name} has a sequence of {longest} tokens, the context is {context}"
            )


def _sinusoids(positions: int, width: int) -> Tensor:
    """What learned positions begin as: near places are alike (Vaswani et al. 2017), as large as weights."""
    rate = torch.exp(-math.log(10000.0) * torch.arange(0, width, 2) / width)
    angle = torch.outer(torch.arange(positions), rate)
    return math.sqrt(4 / (5 * width)) * torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width]


def _rope(config: EncoderDecoderConfig) -> Rope | None:
    if config.position != "rope":
        return None
    return Rope(config.context, config.head_width, config.rope_base)
