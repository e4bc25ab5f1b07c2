"""What a walk of a model says, part by part."""

from __future__ import annotations

from fusedlm.models import Decoder, Encoder, EncoderDecoder

from . import words
from .tracing import Model
from .words_pair import encoder_decoder

Section = dict[str, str]


def sections(model: Model, tokens: int, source: int = 0) -> dict[str, Section]:
    """Title, text and formula by name, in the order of the walk; only of what the model has.

    `source` is how many tokens the encoder of an encoder-decoder reads.
    """
    if isinstance(model, Encoder):
        found = words.encoder(model, tokens)
    elif isinstance(model, Decoder):
        found = words.decoder(model, tokens)
    elif isinstance(model, EncoderDecoder):
        found = encoder_decoder(model, tokens, source)
    else:
        found = words.decoder_classifier(model, tokens)
    return {
        name: {"title": title, "text": " ".join(text.split()), "formula": formula}
        for name, (title, text, formula) in found.items()
    }
