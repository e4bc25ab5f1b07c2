"""Parts of speech, by taggers whose models come inside their wheels.

English by HanTa (a trigram tagger over morphemes; tags of the BNC's C5 set: NN1, VVZ, AJ0, ...), Chinese
by jieba's dictionary (tags of the People's Daily: n, v, a, nr, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from .optional import needed
from .words import Span

_LONGEST = (
    40  # characters of a word that the tagger sees: its analysis tries all ways to cut one up
)
_UNKNOWN = "UNC"
_SENTENCE = 200  # words that are tagged together at most: what has no full stop is no sentence


def english_tagger() -> Callable[[list[str]], list[str]]:
    """Words of a text -> their tags, sentence by sentence."""
    module = needed("HanTa.HanoverTagger", "part-of-speech tags of English")
    tagger = module.HanoverTagger("morphmodel_en.pgz")
    # Most of its time goes into words that its model does not have: they come again, too.
    tagger.analyze_forward = lru_cache(maxsize=1 << 16)(tagger.analyze_forward)

    def tag_sentence(sentence: list[str]) -> list[str]:
        try:
            tagged: list[str] = tagger.tag_sent(sentence, taglevel=0)
            return tagged
        except KeyError:  # no sequence of tags is possible
            return [_UNKNOWN] * len(sentence)

    def tags(words: list[str]) -> list[str]:
        found: list[str] = []
        sentence: list[str] = []
        for number, word in enumerate(words, 1):
            sentence.append(word[:_LONGEST])
            if word[0] in ".!?" or len(sentence) == _SENTENCE or number == len(words):
                found += tag_sentence(sentence)
                sentence = []
        return found

    return tags


def chinese_tagger() -> Callable[[str], tuple[list[Span], list[str]]]:
    """Text -> the places of its words, and their tags."""
    tag = needed("rjieba", "part-of-speech tags of Chinese").tag

    def tags(text: str) -> tuple[list[Span], list[str]]:
        spans, kinds, at = [], [], 0
        for word, kind in tag(text):
            if not word.isspace():
                spans.append((at, at + len(word)))
                kinds.append(kind)
            at += len(word)
        return spans, kinds

    return tags
