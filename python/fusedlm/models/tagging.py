"""Classes of words, from a model that classifies tokens: which token speaks for which word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fusedlm.data.tokenizer import Tokenizer

from .texts import Classifier, class_names, in_batches


@dataclass(frozen=True)
class Piece:
    """A sentence, or a part of one that is too long: its tokens, and of each word the first of them.

    `firsts` is -1 for a word that has no token (the tokenizer drops it).
    """

    sentence: int
    first_word: int
    ids: list[int]
    firsts: list[int]


def encode_words(
    tokenizer: Tokenizer, sentences: Sequence[Sequence[str]], longest: int
) -> list[Piece]:
    """Every sentence as pieces of at most `longest` tokens, cut between words, in order.

    Words are joined by spaces and the text is tokenized as any other; the first token of a word
    speaks for it. A single word with more tokens is cut.
    """
    pieces: list[Piece] = []
    waiting = [(number, 0, list(words)) for number, words in enumerate(sentences)]
    while waiting:
        encoded = tokenizer.encode_spans(
            [" ".join(words) for *_, words in waiting], add_special=True
        )
        halves = []
        for (number, first, words), (ids, spans) in zip(waiting, encoded, strict=True):
            if len(ids) > longest and len(words) > 1:
                half = len(words) // 2
                halves += [(number, first, words[:half]), (number, first + half, words[half:])]
            elif ids:
                pieces.append(Piece(number, first, ids[:longest], _firsts(words, spans[:longest])))
        waiting = halves
    return sorted(pieces, key=lambda piece: (piece.sentence, piece.first_word))


def wordless(
    model: Classifier, tokenizer: Tokenizer, sentences: Sequence[Sequence[str]]
) -> list[int]:
    """Numbers of the sentences in which no word has a token, so that there is nothing to learn from."""
    pieces = encode_words(tokenizer, sentences, model.config.read_tokens)
    some = {piece.sentence for piece in pieces if max(piece.firsts) >= 0}
    return [number for number in range(len(sentences)) if number not in some]


def _firsts(words: list[str], spans: list[tuple[int, int]]) -> list[int]:
    """The first token of each word, by the characters that both stand for."""
    firsts, begin, token = [], 0, 0
    for word in words:
        end = begin + len(word)
        while token < len(spans) and spans[token][1] <= begin:  # before the word, or of no text
            token += 1
        inside = token < len(spans) and spans[token][0] < end
        firsts.append(token if inside else -1)
        begin = end + 1
    return firsts


@torch.no_grad()
def word_logits(
    model: Classifier, pieces: Sequence[Piece], progress: Callable[[int], None] | None = None
) -> list[Tensor]:
    """Logits [words, K] float32 of each piece. A word without a token has all on the first class."""
    results: list[Tensor] = [torch.empty(0)] * len(pieces)
    rows = [piece.ids for piece in pieces]
    for chosen, packed in in_batches(model, rows):
        logits = model.classify_packed(packed).float()
        parts = logits.split(packed.lengths.tolist())
        for number, part in zip(chosen, parts, strict=True):
            firsts = torch.tensor(pieces[number].firsts)
            found = part[firsts.clamp(min=0)]
            found[firsts < 0] = torch.nn.functional.one_hot(torch.tensor(0), part.shape[1]) * 100.0
            results[number] = found
        if progress is not None:
            progress(len(chosen))
    return results


def tag_words(
    model: Classifier, tokenizer: Tokenizer, sentences: Sequence[Sequence[str]], *,
    progress: Callable[[int], None] | None = None,
) -> list[list[str]]:  # fmt: skip
    """The tag of every word of every sentence, by a model whose task is "token"."""
    task = getattr(model.config, "task", None)
    if task != "token":
        raise ValueError(f"tag_words: the model's task is {task!r}, expected 'token'")
    for number, words in enumerate(sentences):
        if isinstance(words, str) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"tag_words: sentence {number} is {words!r}, expected a list of words")
    longest = model.config.read_tokens
    pieces = encode_words(tokenizer, sentences, longest)
    return joined(model, pieces, word_logits(model, pieces, progress), sentences)


def joined(
    model: Classifier, pieces: Sequence[Piece], logits: Sequence[Tensor],
    sentences: Sequence[Sequence[str]],
) -> list[list[str]]:  # fmt: skip
    """The likeliest tags of the pieces as tags of the sentences."""
    labels = class_names(model)
    tags = [[labels[0]] * len(words) for words in sentences]
    for piece, found in zip(pieces, logits, strict=True):
        for place, best in enumerate(found.argmax(1).tolist(), piece.first_word):
            tags[piece.sentence][place] = labels[best]
    return tags
