"""A pre-norm transformer decoder: GPT-2, Llama, Qwen and Mistral are settings of one model.

    tokens -> embedding -> [ norm -> attention -> + -> norm -> feed-forward -> + ] x L -> norm -> head

Between the layers runs a pair: `stream`, the residual sum so far, and `branch`, the output of the
last sub-layer, not added yet. The addition happens inside the next norm, which reads both anyway,
so that the sum costs no pass over memory of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.utils.checkpoint import checkpoint

from fusedlm import ops
from fusedlm.nn import Embedding, FeedForward, Linear, Rope, SelfAttention

from .checks import check_dtype, check_tokens
from .config import ModelConfig
from .packed import Packed
from .residual import added, norm_of


def _rope(config: ModelConfig) -> Rope | None:
    if config.position == "learned":
        return None
    return Rope(
        config.context, config.head_width, config.rope_base, scaling=config.rope_scaling,
        interleaved=config.rope_interleaved,
    )  # fmt: skip


class Block(nn.Module):
    """(branch, stream) -> (branch, stream): attention and feed-forward, each after a norm."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        # 2L branches add up in the stream; this keeps its variance near 1 layer's (GPT-2, 2.3).
        out_std = 0.02 / math.sqrt(2 * config.layers)
        self.dropout = config.dropout
        self.attention_norm = norm_of(config)
        self.attention = SelfAttention(
            config.width, config.heads, kv_heads=config.kv_heads, head_width=config.head_width,
            bias=config.bias, qkv_bias=config.qkv_bias,
            qk_norm=config.norm_eps if config.qk_norm else None,
            window=(config.windows[layer] or None) if config.windows else None,
            dropout=config.dropout, out_std=out_std,
        )  # fmt: skip
        self.ffn_norm = norm_of(config)
        self.ffn = FeedForward(
            config.width, config.ffn_width, activation=config.activation, bias=config.bias,
            out_std=out_std,
        )  # fmt: skip

    def forward(
        self, branch: Tensor, stream: Tensor | None, rope: Rope | None,
        positions: Tensor | None, starts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        x, stream = added(self.attention_norm, branch, stream)
        branch = self._drop(self.attention(x, rope, positions, starts))
        x, stream = self.ffn_norm(branch, residual=stream)
        return self._drop(self.ffn(x)), stream

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout) if self.dropout and self.training else x


class Decoder(nn.Module):
    """The language model of `config`. Parameters are float32; `compute_dtype` sets activations.

    With `recompute` a training step keeps only what enters each block and computes the block again
    in the backward (Chen et al. 2016, arXiv:1604.06174): the same bits, less memory, a third more
    work. `decoder.recompute` and `decoder.compute_dtype` may be set at any time.

    `grad_dtype` torch.bfloat16 lets the matrices of the blocks get bfloat16 gradients, rounded once from
    float32 sums, which is what autocast's are: half the memory, for one backward a step. For more
    (accumulation) keep float32. Needs an optimizer that takes them, as `fusedlm.optim.AdamW` does.
    """

    def __init__(
        self,
        config: ModelConfig,
        compute_dtype: torch.dtype = torch.float32,
        *,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.recompute = recompute
        learned = config.position == "learned"
        self.embedding = Embedding(
            config.vocab_size, config.width, positions=config.context if learned else 0
        )
        self.rope = _rope(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.grad_dtype = torch.float32
        self.final_norm = norm_of(config)
        self.head = None if config.tied else Linear(config.width, config.vocab_size, bias=False)

    @classmethod
    def empty(cls, config: ModelConfig) -> Decoder:
        """For weights from a file: parameters on the meta device, so without memory of their own.

        torch's random state stays as it was.
        """
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = cls(config)
        model.rope = _rope(config)
        return model

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None, *, positions: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """tokens [B, T] int64 -> logits [B, T, V], or the mean loss (float32) if given targets.

        targets [B, T] int64 are the tokens to predict, already shifted; config.ignore_index is
        left out. positions [T] or [B, T] default to 0, 1, ...
        """
        self._check(tokens, targets, positions)
        B, T = tokens.shape
        if positions is not None and positions.dim() == 1:
            positions = positions.expand(B, T)

        table: Tensor = self.embedding.weight
        head_weight = self.head_weight
        # Compiled graphs have no sparse tensors.
        tied = self.head is None and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if tied:
            table, head_weight = ops.tied(table)
        x = self._hidden(tokens, positions, None, table, sparse_grad=tied)
        if targets is None:
            return ops.linear(x, head_weight)
        return ops.linear_cross_entropy(
            x, head_weight, targets, ignore_index=self.config.ignore_index
        )

    def hidden(self, packed: Packed) -> Tensor:
        """The normed last layer of packed sequences, [N, C] in compute_dtype."""
        table = self.embedding.weight
        x = self._hidden(packed.tokens[None], packed.positions[None], packed.starts, table)
        return x[0]

    def predict_packed(
        self, packed: Packed, targets: Tensor | None = None, *, reduction: str = "mean"
    ) -> Tensor:
        """`forward` of packed sequences, none of which sees another: logits [N, V], or the loss.

        Tokens whose target [N] is config.ignore_index are left out before the head, which costs nothing
        for them. `reduction` "none" gives the losses of the others, in order.
        """
        table: Tensor = self.embedding.weight
        head_weight = self.head_weight
        tied = self.head is None and torch.is_grad_enabled()
        if tied:
            table, head_weight = ops.tied(table)
        x = self._hidden(
            packed.tokens[None], packed.positions[None], packed.starts, table, sparse_grad=tied
        )[0]
        if targets is None:
            return ops.linear(x, head_weight)
        kept = (targets != self.config.ignore_index).nonzero().squeeze(1)
        return ops.linear_cross_entropy(x[kept], head_weight, targets[kept], reduction=reduction)

    def _hidden(
        self, tokens: Tensor, positions: Tensor | None, starts: Tensor | None, table: Tensor,
        *, sparse_grad: bool = False,
    ) -> Tensor:  # fmt: skip
        branch = self.embedding(
            tokens, positions, dtype=self.compute_dtype, weight=table, sparse_grad=sparse_grad
        )
        if self.config.dropout and self.training:
            branch = dropout(branch, self.config.dropout)
        stream = None
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                branch, stream = checkpoint(
                    block, branch, stream, self.rope, positions, starts, use_reentrant=False
                )
            else:
                branch, stream = block(branch, stream, self.rope, positions, starts)
        x: Tensor
        x, _ = self.final_norm(branch, residual=stream)
        return x

    @property
    def head_weight(self) -> Tensor:
        """[V, C]; the embedding itself when tied (Press & Wolf 2017)."""
        return self.embedding.weight if self.head is None else self.head.weight

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of activations: torch.float32 or torch.bfloat16."""
        return self._compute_dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype) -> None:
        self._compute_dtype = check_dtype("Decoder", "compute_dtype", dtype)

    @property
    def grad_dtype(self) -> torch.dtype:
        """Of the gradients of the blocks' matrices: torch.float32 or torch.bfloat16."""
        return self._grad_dtype

    @grad_dtype.setter
    def grad_dtype(self, dtype: torch.dtype) -> None:
        self._grad_dtype = check_dtype("Decoder", "grad_dtype", dtype)
        for parameter in self.blocks.parameters():
            if parameter.dim() > 1:
                parameter.grad_dtype = dtype

    def num_parameters(self, *, embeddings: bool = True) -> int:
        """Number of parameters, tied ones once; without the two embeddings if not `embeddings`."""
        total = sum(p.numel() for p in self.parameters())
        return total if embeddings else total - sum(p.numel() for p in self.embedding.parameters())

    def _check(self, tokens: Tensor, targets: Tensor | None, positions: Tensor | None) -> None:
        check_tokens("Decoder", tokens, self.config.context)
        shape = list(tokens.shape)
        if targets is not None and targets.shape != tokens.shape:
            raise ValueError(
                f"Decoder: targets has shape {list(targets.shape)}, expected {shape} as tokens"
            )
        if positions is not None and list(positions.shape) not in (shape[1:], shape):
            raise ValueError(
                f"Decoder: positions has shape {list(positions.shape)}, expected {shape[1:]} or {shape}"
            )
