"""Questions that a tiny model learns: which word of a kind a text holds, if it holds one."""

from __future__ import annotations

import random

from fusedlm.data import Question, Tokenizer, train_words
from fusedlm.models import Encoder, EncoderConfig

KINDS = {
    "colour": ["red", "green", "blue", "grey"], "city": ["rome", "oslo", "bonn", "kyiv"],
    "number": ["one", "two", "three", "four"],
}  # fmt: skip
OTHERS = "we saw it there and then they went by on foot".split()


def kind_questions(count: int, seed: int, words: int = 9) -> list[Question]:
    """A third of them has no answer: the text has words of other kinds only."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        kind = draw.choice(list(KINDS))
        text = draw.choices(OTHERS, k=words)
        other = draw.choice([name for name in KINDS if name != kind])
        text[draw.randrange(words)] = draw.choice(KINDS[other])
        answers = []
        if number % 3:
            place = draw.randrange(words)
            text[place] = draw.choice(KINDS[kind])
            answers = [(text[place], len(" ".join(["", *text[:place]])[1:]) + (place > 0))]
        context = " ".join(text)
        rows.append(Question(f"{seed}-{number}", f"which {kind} ?", context, answers))
    return rows


def kind_tokenizer() -> Tokenizer:
    return train_words(
        ["which ?", *OTHERS, *KINDS, *(w for words in KINDS.values() for w in words)], 99
    )


def kind_encoder(tokenizer: Tokenizer, **changes) -> Encoder:
    shape = {"context": 48, "layers": 1, "width": 32, "heads": 2, "dropout": 0.0, "types": 2}
    return Encoder(EncoderConfig(tokenizer.vocab_size, **{**shape, **changes}))
