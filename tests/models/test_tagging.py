"""Which token speaks for which word, whatever the tokenizer and the sentence's length."""

from __future__ import annotations

import pytest
import torch

from fusedlm.data import train_bpe, train_chars, train_words
from fusedlm.models import Encoder, EncoderConfig, tag_words
from fusedlm.models.tagging import encode_words

TEXT = "Ada Lovelace lived in London , they say . unbelievably"
SENTENCES = [TEXT.split(), ["London"], ["so", "Ada", "lived"]]
TOKENIZERS = {
    "bytes": lambda: train_bpe(TEXT, 300),
    "words": lambda: train_words([TEXT, "so"], 50),
    "characters": lambda: train_chars(TEXT),
}


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS.keys())
@pytest.mark.parametrize("longest", [200, 12])
def test_the_first_token_of_each_word_speaks_for_it(make, longest):
    tokenizer = make()
    pieces = encode_words(tokenizer, SENTENCES, longest)
    seen: list[list[str]] = [[] for _ in SENTENCES]
    for piece in pieces:
        assert len(piece.ids) <= longest and len(seen[piece.sentence]) == piece.first_word
        words = SENTENCES[piece.sentence][piece.first_word :][: len(piece.firsts)]
        for word, first in zip(words, piece.firsts, strict=True):
            token = tokenizer._inner.id_to_token(piece.ids[first]).lstrip("Ġ")
            assert word.lower().startswith(token.lower())
        seen[piece.sentence] += words
    assert seen == SENTENCES
    assert len(pieces) == 3 if longest == 200 else len(pieces) >= 3


def test_a_word_without_tokens_gets_the_first_class_and_long_sentences_are_tagged_to_the_end():
    tokenizer = train_words([TEXT], 50).without_tags()
    (piece,) = encode_words(tokenizer, [["Ada", "<br/>", "lived"]], 10)
    assert piece.firsts == [0, -1, 1]
    torch.manual_seed(0)
    config = EncoderConfig(
        tokenizer.vocab_size, context=4, layers=1, width=8, heads=2, types=0, task="token",
        labels=["O", "B-X"],
    )  # fmt: skip
    model = Encoder(config).eval()
    torch.nn.init.constant_(model.classifier.bias, 0.0)
    with torch.no_grad():
        model.classifier.bias[1] = 50.0
    (tags,) = tag_words(model, tokenizer, [["Ada", "<br/>", *["lived"] * 30]])
    assert tags == ["B-X", "O", *["B-X"] * 30]
    for sentences, words in (
        (["Ada lived"], r"0 is 'Ada lived'"),
        ("Ada", "0 is 'A'"),
        ([["Ada"], ["in", 3]], r"1 is \['in', 3\]"),
    ):
        with pytest.raises(ValueError, match=f"sentence {words}, expected a list of words"):
            tag_words(model, tokenizer, sentences)
    with pytest.raises(ValueError, match="task is 'sequence', expected 'token'"):
        tag_words(
            Encoder(EncoderConfig(9, layers=1, width=8, heads=2, task="sequence", labels=["a", "b"])),
            tokenizer, [["x"]],
        )  # fmt: skip
