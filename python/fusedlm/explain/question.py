"""What of a sentence and a model is looked at."""

from __future__ import annotations

from dataclasses import dataclass, field

from .learning import AdamSettings


@dataclass(frozen=True)
class Question:
    """What to look at. `numbers` are shown of each vector, `top` of the likeliest tokens or classes.

    `asked` is what an encoder that finds answers is asked about the text. `target` is the token that
    should come after the text (its first, if it is cut into several), the class, the answer, a part of
    the text (or "": none), or of an encoder-decoder the translation; None leaves the last token of a decoder
    without one, and takes the likeliest class or answer, or the translation that beam search finds.

    `position` is the token that is looked at, from 0, or from the end, if negative: its vectors are printed,
    and the attribution is that of its class, of a classifier of tokens, or of the token after it, of an
    encoder-decoder. None is the last token of a decoder, which has seen all, the first word of an
    encoder, and what comes before the last token of a translation. `steps` of `adam` are made, 0 leaves out
    loss and learning; attribution takes at most `attribution_steps` gradients, 0 leaves it out.
    """

    numbers: int = 8
    top: int = 5
    asked: str | None = None
    target: str | None = None
    position: int | None = None
    steps: int = 3
    adam: AdamSettings = field(default_factory=AdamSettings)
    attribution_steps: int = 512

    def __post_init__(self) -> None:
        for name, least in (("numbers", 1), ("top", 1), ("steps", 0), ("attribution_steps", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(
                    f"Question: {name} is {value!r}, expected an integer of at least {least}"
                )

    def position_of(self, tokens: int, usual: int) -> int:
        """`position` from the front. Raises ValueError for one that a text of so many tokens has not."""
        return place_of(usual if self.position is None else self.position, tokens)


def place_of(position: int, tokens: int) -> int:
    """A position from the front, of one that is from the end if negative."""
    if not -tokens <= position < tokens:
        raise ValueError(
            f"explain: position is {position}, expected 0 to {tokens - 1} of this text"
        )
    return position % tokens
