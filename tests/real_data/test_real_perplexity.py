"""SmolLM2's perplexity on answers of chatterbot-corpus, and on their words in another order."""

from __future__ import annotations

import random

import pytest

from fusedlm.data import pack_text
from fusedlm.evaluation import text_loss
from fusedlm.models import load
from tests.support.real_data import DECODER, dialogues, package_folder


def test_a_real_model_expects_real_sentences_more_than_their_words_shuffled():
    pytest.importorskip("gguf")
    (file,) = package_folder(DECODER).glob("*.gguf")
    answers = "\n".join(dict.fromkeys(talk[1]["content"] for talk in dialogues("english")[::60]))
    words = answers.split()
    random.Random(0).shuffle(words)
    model, tokenizer = load(file)
    real, shuffled = (
        text_loss(model, tokenizer, pack_text(text, tokenizer), batch=1)["bits_per_byte"]
        for text in (answers, " ".join(words))
    )
    assert real < 0.75 * shuffled
