"""The shape of an encoder-decoder: one frozen dataclass that checks itself."""

from __future__ import annotations

from dataclasses import dataclass

from fusedlm._rules import is_gated

from .config import ACTIVATIONS, NORMS, POSITIONS, usual_ffn_width
from .fields import TO_FILL, CheckedFields, Filled


@dataclass(frozen=True)
class EncoderDecoderConfig(CheckedFields):
    """Everything that decides the parameters of an `EncoderDecoder` and what it computes.

    `examples` translations of similar sources may stand behind a source (Bulté & Tezcan 2019, "Neural
    fuzzy repair").
    `layers` are those of the encoder, `decoder_layers` those of the decoder (None: as many), and
    `context` is the longest source, example and target in tokens, the end among them. ffn_width
    None means 4 width (8/3 width for gated activations, rounded up to a multiple of 64). `end_id`
    ends sources and targets, and is what the decoder begins with. Raises ValueError naming the field
    that does not fit.
    """

    vocab_size: int
    context: int = 256
    layers: int = 4
    decoder_layers: Filled[int] = TO_FILL
    width: int = 256
    heads: int = 4
    ffn_width: Filled[int] = TO_FILL
    norm: str = "rms_norm"
    norm_eps: float = 1e-5
    activation: str = "swiglu"
    position: str = "learned"
    rope_base: float = 10000.0
    bias: bool = False
    dropout: float = 0.1
    end_id: int = 0
    examples: int = 0
    ignore_index: int = -100

    @property
    def head_width(self) -> int:
        """Width of a head: width / heads."""
        return self.width // self.heads

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layers have a gate (SwiGLU, GEGLU)."""
        return is_gated(self.activation)

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "layers", "width", "heads"):
            self._count(name, 1)
        if self.width % self.heads:
            self._bad("heads", f"a divisor of width={self.width}")
        self._choice("activation", ACTIVATIONS)
        for name, value in (
            ("decoder_layers", self.layers),
            ("ffn_width", usual_ffn_width(self.width, self.activation)),
        ):
            self._fill(name, value)
            self._count(name, 1)
        self._choice("norm", NORMS)
        self._choice("position", POSITIONS)
        if self.position == "rope" and self.head_width % 2:
            self._bad("heads", "so many that width / heads is even, with position='rope'")
        self._positive("norm_eps")
        self._positive("rope_base")
        self._share("dropout")
        if not isinstance(self.bias, bool):
            self._bad("bias", "true or false")
        if type(self.ignore_index) is not int:
            self._bad("ignore_index", "an integer")
        self._count("end_id", 0)
        self._count("examples", 0)
        if self.end_id >= self.vocab_size:
            self._bad("end_id", f"a token below vocab_size={self.vocab_size}")
