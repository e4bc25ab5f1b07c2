"""Generation on the engine: text and chat, sampling, streaming, constrained output."""

from .batch import Batch, Job, Options
from .chat_template import ChatTemplate
from .decoder_text import generate_text, stream_text
from .generate import generate
from .language_model import Generation, LanguageModel
from .sampling import Sampling
from .vocabulary import Vocabulary

__all__ = [
    "Batch", "ChatTemplate", "Generation", "Job", "LanguageModel", "Options", "Sampling",
    "Vocabulary", "generate", "generate_text", "stream_text",
]  # fmt: skip
