"""What is fuzzed, by name."""

from __future__ import annotations

from ..case import Target
from . import checkpoint, config, data, gguf, http, safetensors, tokenizer

TARGETS: dict[str, Target] = {
    module.TARGET.name: module.TARGET
    for module in (safetensors, gguf, tokenizer, config, data, checkpoint, http)
}
