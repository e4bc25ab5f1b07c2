"""Generation: sampling, ragged batches, streaming and the KV cache."""

from .cache import KVCache
from .decoding import Decoding
from .generate import generate
from .sampling import Sampling
from .text import generate_text, stream_text

__all__ = ["Decoding", "KVCache", "Sampling", "generate", "generate_text", "stream_text"]
