"""A post-norm transformer encoder: BERT, RoBERTa and DistilBERT (Devlin et al. 2019, arXiv:1810.04805).

    tokens -> embedding -> norm -> [ attention -> + -> norm -> feed-forward -> + -> norm ] x L -> head

Sequences of a batch are packed one behind the other, so that padding is never computed: a batch of
ragged texts costs what its tokens cost.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from fusedlm import ops
from fusedlm.nn import FeedForward, LayerNorm, Linear
from fusedlm.nn.basic import normal

from .checks import check_dtype, check_tokens
from .encoder_config import ONE_OF, EncoderConfig
from .ngrams import NGrams
from .packed import Packed, first_of, mean_of, span_loss


class EncoderBlock(nn.Module):
    """x [1, N, C] -> [1, N, C]. The additions are made where the products are written."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        C, eps = config.width, config.norm_eps
        self.heads, self.head_width = config.heads, config.head_width
        self.dropout = config.dropout
        self.qkv = Linear(C, 3 * C)
        self.out = Linear(C, C)
        self.attention_norm = LayerNorm(C, eps)
        self.ffn = FeedForward(C, config.ffn_width, activation=config.activation)
        self.ffn_norm = LayerNorm(C, eps)

    def forward(self, x: Tensor, starts: Tensor) -> Tensor:
        dropped = self.dropout if self.training else 0.0
        qkv = self.qkv(x).view(1, x.shape[1], 3 * self.heads, self.head_width)
        mixed = ops.attention_qkv(qkv, self.heads, cu_seqlens=starts, dropout_p=dropped).flatten(2)
        if dropped:
            x, _ = self.attention_norm(dropout(self.out(mixed), dropped), residual=x)
            x, _ = self.ffn_norm(dropout(self.ffn(x), dropped), residual=x)
            return x
        x = self.attention_norm(self.out(mixed, residual=x))
        x = self.ffn_norm(self.ffn(x, residual=x))
        return x


class Encoder(nn.Module):
    """The encoder of `config`. Parameters are float32; `compute_dtype` sets activations.

    Training: `classify` with targets gives the loss of a classifier, `pool` vectors for a loss of
    one's own. `fusedlm.models.embed` and `classify_texts` take texts.
    """

    def __init__(self, config: EncoderConfig, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        C = config.width
        self.token_weight = normal(config.vocab_size, C)
        self.position_weight = normal(config.context + config.first_position, C)
        self.type_weight = normal(config.types, C) if config.types else None
        self.embedding_norm = LayerNorm(C, config.norm_eps)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.layers))
        # BERT classifies what its pooler makes of the first token; the others have a layer like it.
        dense = config.pooler or (config.task == "sequence" and config.head == "dense")
        self.pooler = Linear(C, C) if dense else None
        classes = len(config.labels or ())
        self.classifier = Linear(C, classes) if config.task else None
        self.ngrams = None
        if config.ngrams:
            self.ngrams = NGrams(config.ngrams, config.ngram_buckets, classes, config.ngram_scale)

    @classmethod
    def empty(cls, config: EncoderConfig) -> Encoder:
        """For weights from a file: parameters on the meta device, so without memory of their own."""
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return cls(config)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of activations: torch.float32 or torch.bfloat16."""
        return self._compute_dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype) -> None:
        self._compute_dtype = check_dtype("Encoder", "compute_dtype", dtype)

    def forward(
        self, tokens: Tensor, mask: Tensor | None = None, types: Tensor | None = None
    ) -> Tensor:
        """tokens [B, T] int64 -> the last layer [B, T, C], in compute_dtype; zeros at padding.

        mask [B, T]: true or not 0 where a token counts (attention_mask); None: everywhere. types
        [B, T] int64 are token types, by default 0.
        """
        packed, kept = self.pack(tokens, mask, types)
        hidden = self.hidden(packed)
        if kept is None:
            return hidden.view(*tokens.shape, -1)
        spread = hidden.new_zeros(tokens.numel(), hidden.shape[1])
        return spread.index_copy(0, kept, hidden).view(*tokens.shape, -1)

    def pack(
        self, tokens: Tensor, mask: Tensor | None = None, types: Tensor | None = None
    ) -> tuple[Packed, Tensor | None]:
        """The tokens that count, one behind the other, and which they are of the B T; None: all."""
        self._check(tokens, mask, types)
        B, T = tokens.shape
        positions = torch.arange(T, device=tokens.device).expand(B, T)
        if self.config.style == "roberta":  # it tells padding by the token, whatever the mask says
            pad = self.config.pad_id
            positions = (tokens != pad).cumsum(1).masked_fill(tokens == pad, 0) + pad
        if mask is None:
            starts = torch.arange(0, B * T + 1, T, dtype=torch.int32, device=tokens.device)
            flat = None if types is None else types.reshape(-1)
            return Packed(tokens.reshape(-1), positions.reshape(-1), starts, flat), None
        mask = mask.bool()
        kept = mask.reshape(-1).nonzero().squeeze(1)
        lengths = mask.sum(1)
        if int(lengths.min()) == 0:
            raise ValueError(f"Encoder: mask has no token in row {int(lengths.argmin())}")
        starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        tokens, positions = tokens.reshape(-1)[kept], positions.reshape(-1)[kept]
        types = None if types is None else types.reshape(-1)[kept]
        return Packed(tokens, positions, starts, types), kept

    def hidden(self, packed: Packed) -> Tensor:
        """The last layer of packed sequences, [N, C] in compute_dtype."""
        table: Tensor = self.position_weight
        rows = packed.positions
        if self.type_weight is not None:
            # Positions and types are looked up at once, in a table of all their sums: it is small.
            used = 1 if packed.types is None else self.config.types
            table = (self.type_weight[:used, None] + self.position_weight).flatten(0, 1)
            if packed.types is not None:
                self._check_positions(rows)  # in that table a wrong one would be another type's
                rows = rows + packed.types * self.position_weight.shape[0]
        x = ops.embedding(
            packed.tokens[None], self.token_weight, position_weight=table, positions=rows,
            dtype=self.compute_dtype,
        )  # fmt: skip
        x = self._drop(self.embedding_norm(x))
        for block in self.blocks:
            x = block(x, packed.starts)
        return x[0]

    def pool(self, hidden: Tensor, packed: Packed) -> Tensor:
        """One vector a sequence [n, C] float32, of hidden [N, C]: the mean, or the first token's.

        Of length 1 if config.normalize.
        """
        if self.config.pooling == "cls":
            vectors = first_of(hidden, packed).float()
        else:
            vectors = mean_of(hidden, packed)
        if self.config.normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=-1, eps=1e-12)
        return vectors

    def classify(
        self, tokens: Tensor, mask: Tensor | None = None, types: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Logits [B, K] of sequences or [B, T, K] of tokens, or the mean loss if given targets.

        targets [B] or [B, T] int64; -100 is left out. Of task "span" they are [B, 2]: the first and the
        last token of the answer. Needs a config with a task.
        """
        self._head()
        packed, kept = self.pack(tokens, mask, types)
        task = self.config.task
        if targets is not None:
            if task == "span":
                _check_spans(targets, tokens, mask)
            if task == "token" and targets.numel() != tokens.numel():
                raise ValueError(
                    f"Encoder: targets has shape {list(targets.shape)}, expected {list(tokens.shape)}"
                    " as tokens"
                )
            if task == "span" and mask is not None:
                targets = (mask.bool().cumsum(1) - 1).gather(1, targets)
            elif task != "span":
                targets = targets.reshape(-1)
                targets = targets[kept] if task == "token" and kept is not None else targets
            return self.classify_packed(packed, targets)
        logits = self.classify_packed(packed)
        if task == "sequence":
            return logits
        if kept is not None:
            spread = logits.new_zeros(tokens.numel(), logits.shape[1])
            logits = spread.index_copy(0, kept, logits)
        return logits.view(*tokens.shape, -1)

    def classify_packed(
        self, packed: Packed, targets: Tensor | None = None, *, label_smoothing: float = 0.0
    ) -> Tensor:
        """`classify` of packed sequences: logits [n, K], or [N, K] of tokens, or the loss.

        Targets of task "span" [n, 2] count from the beginning of each sequence.
        """
        head = self._head()
        if targets is not None and self.config.problem_type != ONE_OF:
            raise NotImplementedError(
                f"Encoder: config.problem_type is {self.config.problem_type!r}, whose loss is not"
                f" known here, only that of {ONE_OF!r}; without targets there are logits"
            )
        x = self._drop(
            self.features(packed) if self.config.task == "sequence" else self.hidden(packed)
        )
        logits: Tensor
        if self.ngrams is not None:
            logits = head(x) + self.ngrams(packed)
            if targets is None:
                return logits
            return ops.cross_entropy(logits, targets, label_smoothing=label_smoothing)
        if targets is None or self.config.task == "span":
            logits = head(x)
            return logits if targets is None else span_loss(logits, packed, targets)
        return ops.linear_cross_entropy(
            x, head.weight, targets, bias=head.bias, label_smoothing=label_smoothing
        )

    def features(self, packed: Packed) -> Tensor:
        """What stands for each sequence [n, C]: its mean, or its first token through a dense layer."""
        if self.config.ngram_tokens is not None:
            packed = packed.without_middles(min(self.config.max_tokens, self.config.context))
        hidden = self.hidden(packed)
        if self.config.head == "mean":
            return mean_of(hidden, packed)
        if self.pooler is None:
            raise ValueError(
                "Encoder: features of the first token need config.pooler or config.task 'sequence'"
            )
        first = first_of(hidden, packed)
        if self.config.style == "distilbert":
            return torch.relu(self.pooler(first))
        if self.config.style == "roberta":
            first = self._drop(first)
        return torch.tanh(self.pooler(first))

    def _head(self) -> Linear:
        if self.classifier is None:
            raise ValueError(
                "Encoder: config.task is None; a classifier needs 'sequence', 'token' or 'span'"
            )
        return self.classifier

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.config.dropout) if self.config.dropout and self.training else x

    def _check_positions(self, positions: Tensor) -> None:
        last = self.position_weight.shape[0] - 1
        if not 0 <= int(positions.min()) <= int(positions.max()) <= last:
            raise ValueError(f"Encoder: positions holds values outside 0 to {last}")

    def _check(self, tokens: Tensor, mask: Tensor | None, types: Tensor | None) -> None:
        check_tokens("Encoder", tokens, self.config.context)
        shape = list(tokens.shape)
        for name, value in (("mask", mask), ("types", types)):
            if value is not None and list(value.shape) != shape:
                raise ValueError(
                    f"Encoder: {name} has shape {list(value.shape)}, expected {shape} as tokens"
                )
        if types is not None and not self.config.types:
            raise ValueError("Encoder: types is given, and this model has none")
        if types is not None and not 0 <= int(types.min()) <= int(types.max()) < self.config.types:
            raise ValueError(f"Encoder: types holds values outside 0 to {self.config.types - 1}")


def _check_spans(targets: Tensor, tokens: Tensor, mask: Tensor | None) -> None:
    B, T = tokens.shape
    if list(targets.shape) != [B, 2] or targets.dtype != torch.int64:
        raise ValueError(
            f"Encoder: targets has shape {list(targets.shape)} and dtype {targets.dtype}, expected"
            f" [{B}, 2] and torch.int64 with task 'span'"
        )
    if bool(((targets < 0) | (targets >= T)).any()):
        raise ValueError(f"Encoder: targets holds values outside 0 to {T - 1}")
    if mask is not None and not bool((kept := mask.bool().gather(1, targets)).all()):
        row = int(kept.all(1).int().argmin())
        raise ValueError(
            f"Encoder: targets of row {row} are {targets[row].tolist()}, expected tokens that mask keeps"
        )
