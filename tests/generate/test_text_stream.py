"""Tokens become text piece by piece: joined, what the tokenizer makes of all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusedlm.data.tokenizer import train_bpe
from fusedlm.generate.text import TextStream
from fusedlm.models.gguf_tokenizer import build_tokenizer
from tests.support.sentence_pieces import sentence_pieces

TEXT = "the quick brown fox sings: é, 中文, 😀 and songs"


@pytest.fixture(params=["sentence pieces", "bytes"])
def tokenizer(request, tmp_path):
    if request.param == "bytes":
        return train_bpe(TEXT * 3, 300)
    return build_tokenizer(Path("m.gguf"), sentence_pieces(tmp_path)[1])


def streamed(tokenizer, tokens: list[int], **options) -> list[str]:
    stream = TextStream(tokenizer, **options)
    return [*map(stream.push, tokens), stream.close()]


def test_pieces_join_to_the_text_and_never_part_a_character(tokenizer):
    pieces = streamed(tokenizer, tokenizer.encode(TEXT))
    assert "".join(pieces) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)


def test_what_follows_a_prompt_goes_on_from_it(tokenizer):
    tokens = tokenizer.encode(TEXT)
    for cut in range(1, len(tokens)):
        prompt, rest = tokens[:cut], tokens[cut:]
        before = tokenizer.decode(prompt)
        if before.endswith("\ufffd"):  # inside of a character
            continue
        assert before + "".join(streamed(tokenizer, rest, after=prompt)) == TEXT


def test_the_rest_of_a_character_that_a_prompt_begins_is_no_reason_to_lose_text(tokenizer):
    face, word = tokenizer.encode("😀"), tokenizer.encode(" songs")
    if len(face) < 2:
        pytest.skip("one token")
    text = "".join(streamed(tokenizer, face[-1:] + word, after=face[:-1]))
    assert text.endswith("songs") and text.startswith("\ufffd")


def test_what_a_vocabulary_lacks_is_no_context(tokenizer):
    tokens = tokenizer.encode(TEXT)
    unknown = [-1, tokenizer.vocab_size, tokenizer.vocab_size + 7, -3]
    assert "".join(streamed(tokenizer, tokens, after=unknown)) == TEXT
