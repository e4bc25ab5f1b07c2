"""The shape of a decoder: one frozen dataclass that checks itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fusedlm._rules import FFN_ACTIVATIONS, YARN_NEUTRAL, is_gated, yarn_beyond_us

from .fields import TO_FILL, CheckedFields, Filled, is_number

NORMS = ("layer_norm", "rms_norm")
ACTIVATIONS = tuple(FFN_ACTIVATIONS)
POSITIONS = ("learned", "rope")
LLAMA3_SCALING = (
    "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
)  # fmt: skip
# What each way of scaling needs, all of them numbers above 0.
_SCALINGS: dict[str, tuple[str, ...]] = {
    "linear": ("factor",), "llama3": LLAMA3_SCALING, "default": (),
    "yarn": ("factor", "original_max_position_embeddings"),
}  # fmt: skip
# What else a rope_scaling may say, null where it is the default.
_YARN_OPTIONS = ("attention_factor", "beta_fast", "beta_slow")

_GPT2_SIZES: dict[str, dict[str, int]] = {
    "small": {"layers": 12, "width": 768, "heads": 12},
    "medium": {"layers": 24, "width": 1024, "heads": 16},
    "large": {"layers": 36, "width": 1280, "heads": 20},
    "xl": {"layers": 48, "width": 1600, "heads": 25},
}
_SMOLLM2: dict[str, Any] = {"vocab_size": 49152, "context": 8192, "rope_base": 100000.0}
_LLAMA_SIZES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        **_SMOLLM2, "layers": 30, "width": 576, "heads": 9, "kv_heads": 3, "ffn_width": 1536,
        "tied": True,
    },
    "smollm2-360m": {
        **_SMOLLM2, "layers": 32, "width": 960, "heads": 15, "kv_heads": 5, "ffn_width": 2560,
        "tied": True,
    },
    "tinyllama-1.1b": {
        "vocab_size": 32000, "context": 2048, "layers": 22, "width": 2048, "heads": 32,
        "kv_heads": 4, "ffn_width": 5632,
    },
}  # fmt: skip


def usual_ffn_width(width: int, activation: str) -> int:
    """4 times the width; with a gate two thirds of that, as many parameters, up to whole 64s."""
    return 64 * math.ceil(8 * width / 3 / 64) if is_gated(activation) else 4 * width


@dataclass(frozen=True)
class ModelConfig(CheckedFields):
    """Everything that decides the parameters of a `Decoder` and what it computes.

    kv_heads None means heads, head_width None means width / heads, ffn_width None means 4 width
    (8/3 width for gated activations, rounded up to a multiple of 64), and qkv_bias None means bias;
    all four are filled in when the config is made. `qk_norm` puts an RMSNorm on every query and key
    head before RoPE (Qwen3). `windows`, one a layer, lets a token see itself and the W - 1 tokens
    before it; 0 is no window. `rope_scaling` says by "rope_type" (or "type", which becomes that) which
    one it is. Raises ValueError naming the field that does not fit.
    """

    vocab_size: int
    context: int = 256
    layers: int = 6
    width: int = 384
    heads: int = 6
    kv_heads: Filled[int] = TO_FILL
    head_width: Filled[int] = TO_FILL
    ffn_width: Filled[int] = TO_FILL
    norm: str = "layer_norm"
    norm_eps: float = 1e-5
    activation: str = "gelu_tanh"
    position: str = "learned"
    rope_base: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_interleaved: bool = False
    bias: bool = True
    tied: bool = True
    dropout: float = 0.0
    ignore_index: int = -100
    qkv_bias: Filled[bool] = TO_FILL
    qk_norm: bool = False
    windows: list[int] | None = None

    @classmethod
    def gpt2(cls, size: str | None = None, **fields: Any) -> ModelConfig:
        """GPT-2 (Radford et al. 2019): LayerNorm, tanh GELU, learned positions, biases, tied.

        `size` "small", "medium", "large" or "xl" gives the published shape; other fields override.
        """
        preset: dict[str, Any] = dict(_pick("gpt2", size, _GPT2_SIZES))
        if size is not None:
            preset.update(vocab_size=50257, context=1024)
        _check_vocab("gpt2", preset, fields)
        return cls(**{**preset, **fields})

    @classmethod
    def llama(cls, size: str | None = None, **fields: Any) -> ModelConfig:
        """Llama (Touvron et al. 2023): RMSNorm, SwiGLU, RoPE, no biases, untied.

        `size` "smollm2-135m", "smollm2-360m" or "tinyllama-1.1b" gives the published shape.
        """
        preset = {
            "norm": "rms_norm", "activation": "swiglu", "position": "rope", "bias": False,
            "tied": False, **_pick("llama", size, _LLAMA_SIZES),
        }  # fmt: skip
        _check_vocab("llama", preset, fields)
        return cls(**{**preset, **fields})

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layers have a gate (SwiGLU, GEGLU)."""
        return is_gated(self.activation)

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "layers", "width", "heads"):
            self._count(name, 1)
        self._fill("kv_heads", self.heads)
        derived = self.head_width is None
        if derived and self.width % self.heads:
            self._bad("heads", f"a divisor of width={self.width} (or a head_width)")
        self._fill("head_width", self.width // self.heads)
        self._choice("activation", ACTIVATIONS)
        self._fill("ffn_width", usual_ffn_width(self.width, self.activation))
        for name in ("kv_heads", "head_width", "ffn_width"):
            self._count(name, 1)
        if self.heads % self.kv_heads:
            self._bad("kv_heads", f"a divisor of heads={self.heads}")
        self._choice("norm", NORMS)
        self._choice("position", POSITIONS)
        self._positive("norm_eps")
        self._positive("rope_base")
        self._share("dropout")
        self._fill("qkv_bias", self.bias)
        for name in ("rope_interleaved", "bias", "tied", "qkv_bias", "qk_norm"):
            if not isinstance(getattr(self, name), bool):
                self._bad(name, "true or false")
        if type(self.ignore_index) is not int:
            self._bad("ignore_index", "an integer")
        self._check_windows()
        self._check_rope()

    def _check_windows(self) -> None:
        windows = self.windows
        if windows is None:
            return
        fits = isinstance(windows, (list, tuple)) and len(windows) == self.layers
        if not fits or any(type(w) is not int or w < 0 for w in windows):
            self._bad("windows", f"None or {self.layers} integers of at least 0, one a layer")
        object.__setattr__(self, "windows", list(windows) if any(windows) else None)

    def _check_rope(self) -> None:
        if self.position != "rope":
            if self.rope_scaling is not None:
                self._bad("rope_scaling", f"None with position={self.position!r}")
            return
        if self.head_width % 2:
            self._bad("head_width", "an even number with position='rope'")
        if self.rope_scaling is None:
            return
        if not isinstance(self.rope_scaling, dict):
            self._bad("rope_scaling", "a dict or None")
        scaling = dict(self.rope_scaling)
        kind = scaling.pop("type", None)  # what transformers once called it
        kind = scaling.pop("rope_type", kind)
        needed = _SCALINGS.get(kind) if isinstance(kind, str) else None
        if needed is None:
            self._bad("rope_scaling", "a dict whose rope_type is linear, llama3, yarn or default")
        if kind == "yarn":
            self._check_yarn(scaling)
            null = {key for key in _YARN_OPTIONS if scaling.get(key) is None}
            scaling = {k: v for k, v in scaling.items() if k not in YARN_NEUTRAL and k not in null}
            needed += tuple(key for key in _YARN_OPTIONS if key in scaling)
        for key in needed:
            value = scaling.get(key)
            if not is_number(value) or not value > 0:
                self._bad("rope_scaling", f"a dict with {key}, a number above 0")
        object.__setattr__(self, "rope_scaling", {"rope_type": kind, **scaling})

    def _check_yarn(self, scaling: dict[str, Any]) -> None:
        if not self.rope_base > 1:
            self._bad("rope_base", "a number above 1 with rope_type yarn")
        if key := yarn_beyond_us(scaling):
            self._bad("rope_scaling", f"a dict without {key}, which fusedlm does not compute")


def _pick(family: str, size: str | None, sizes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    if size is None:
        return {}
    if size not in sizes:
        raise ValueError(f"ModelConfig.{family}: size is {size!r}, expected one of {list(sizes)}")
    return sizes[size]


def _check_vocab(family: str, preset: dict[str, Any], given: dict[str, Any]) -> None:
    if "vocab_size" not in preset and "vocab_size" not in given:
        raise ValueError(f"ModelConfig.{family}: give vocab_size or size")
