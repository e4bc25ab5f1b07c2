"""Generation: on the engine text and chat, sampling, streaming, constrained output; translation by beam search."""

from .batch import Batch, Job, Options
from .beam_search import Hypothesis, beam_search
from .chat_template import ChatTemplate
from .decoder_text import generate_text, stream_text
from .generate import generate
from .language_model import Generation, LanguageModel
from .sampling import Sampling
from .translate import translate
from .vocabulary import Vocabulary

__all__ = [
    "Batch", "ChatTemplate", "Generation", "Hypothesis", "Job", "LanguageModel", "Options",
    "Sampling", "Vocabulary", "beam_search", "generate", "generate_text", "stream_text",
    "translate",
]  # fmt: skip
