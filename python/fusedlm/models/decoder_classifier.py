"""A decoder that classifies: its last layer at the end of a text, or of each token, and a linear layer.

The last token has seen the whole text.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from fusedlm import ops
from fusedlm.nn import Linear

from .config import ModelConfig
from .decoder import Decoder
from .encoder_config import CUTS
from .fields import TO_FILL, CheckedFields, Filled
from .packed import Packed, last_of, mean_of

POOLINGS = ("last", "mean")
TASKS = ("sequence", "token")  # an answer's start is known by what comes after it


@dataclass(frozen=True)
class DecoderClassifierConfig(CheckedFields):
    """The decoder's own config, which has no head of its own here, and what classifies.

    `task`, `labels`, `max_tokens` and `cut` are those of `EncoderConfig`. `pooling` is what stands for
    a sequence: the "last" token or the "mean" of all.
    """

    decoder: ModelConfig
    labels: list[str]
    task: str = "sequence"
    pooling: str = "last"
    max_tokens: Filled[int] = TO_FILL
    cut: str = "middle"

    def __post_init__(self) -> None:
        given: Any = self.decoder
        if isinstance(given, dict):  # as it is in a file
            object.__setattr__(self, "decoder", ModelConfig.from_dict(given))
        if not isinstance(self.decoder, ModelConfig):
            self._bad("decoder", "a ModelConfig")
        object.__setattr__(self, "decoder", replace(self.decoder, tied=True))
        self._fill("max_tokens", self.decoder.context)
        self._count("max_tokens", 1)
        for name, allowed in (("task", TASKS), ("pooling", POOLINGS), ("cut", CUTS)):
            self._choice(name, allowed)
        self._names("labels", "a list of the classes' names, each once")

    @property
    def vocab_size(self) -> int:
        """The decoder's."""
        return self.decoder.vocab_size

    @property
    def context(self) -> int:
        """The decoder's."""
        return self.decoder.context

    @property
    def layers(self) -> int:
        """The decoder's."""
        return self.decoder.layers

    @property
    def width(self) -> int:
        """The decoder's."""
        return self.decoder.width

    @property
    def head_width(self) -> int:
        """The decoder's."""
        return self.decoder.head_width

    @property
    def read_tokens(self) -> int:
        """How many tokens of a text are read at all."""
        return min(self.max_tokens, self.context)

    @property
    def first_position(self) -> int:
        """The position of the first token."""
        return 0


class DecoderClassifier(nn.Module):
    """`Decoder` under a linear layer; parameters are float32, `compute_dtype` sets activations."""

    def __init__(self, config: DecoderClassifierConfig, decoder: Decoder | None = None) -> None:
        super().__init__()
        self.config = config
        self.decoder = Decoder(config.decoder) if decoder is None else decoder
        self.classifier = Linear(config.width, len(config.labels))

    @classmethod
    def of(cls, decoder: Decoder, labels: list[str], **fields: Any) -> Self:
        """On top of a decoder that is trained already.

        It shares the decoder's parameters but for the head, which it has not; `decoder` keeps its own.
        """
        config = DecoderClassifierConfig(decoder.config, labels, **fields)
        headless = copy.copy(decoder)
        headless._modules = dict(decoder._modules)
        headless.config, headless.head = config.decoder, None
        return cls(config, headless)

    @classmethod
    def empty(cls, config: DecoderClassifierConfig) -> Self:
        """For weights from a file: parameters on the meta device, so without memory of their own."""
        decoder = Decoder.empty(config.decoder)
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return cls(config, decoder)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of activations: torch.float32 or torch.bfloat16."""
        return self.decoder.compute_dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype) -> None:
        self.decoder.compute_dtype = dtype

    def classify_packed(
        self, packed: Packed, targets: Tensor | None = None, *, label_smoothing: float = 0.0
    ) -> Tensor:
        """Logits of packed sequences [n, K], or of their tokens [N, K], or the mean loss."""
        sequence = self.config.task == "sequence"
        x = self.features(packed) if sequence else self.decoder.hidden(packed)
        head = self.classifier
        if targets is None:
            logits: Tensor = head(x)
            return logits
        return ops.linear_cross_entropy(
            x, head.weight, targets, bias=head.bias, label_smoothing=label_smoothing
        )

    def features(self, packed: Packed) -> Tensor:
        """What stands for each sequence [n, C]: its last token, or the mean."""
        hidden = self.decoder.hidden(packed)
        return mean_of(hidden, packed) if self.config.pooling == "mean" else last_of(hidden, packed)
