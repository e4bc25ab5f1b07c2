"""Words of English and Chinese, as places in the text."""

from __future__ import annotations

import re
from collections.abc import Callable

from .optional import needed

Span = tuple[int, int]

# Words keep their apostrophes and hyphens ("don't", "well-known"), initials and numbers their points,
# masked data its brackets. Of the rest each sign stands alone, a run of one sign together.
_ENGLISH = re.compile(
    r"\[(?:EMAIL|IBAN|CARD|IP|PHONE)\]"
    r"|(?<![^\W_])(?:[^\W\d_]\.){2,}"
    r"|(?<![^\W_])[0-9]+(?:[.,:/][0-9]+)*+(?![^\W_])%?"
    r"|[^\W_](?:[^\W_]|[\u0300-\u036f]|['’-](?=[^\W_]))*+"
    r"|([^\w\s]|_)\1*+"
)
# What the English tagger knows as words of their own: "do" + "n't", "it" + "'s", "can" + "not".
_CONTRACTION = re.compile(
    r"(?i)(?<=[^\W_])(?:n['’]t|['’](?:s|re|ve|ll|d|m)|(?<=^can)not|(?<=s)['’])$"
)


def english_words(text: str) -> list[Span]:
    """Where the words of a text are, as (begin, end) in characters."""
    return [match.span() for match in _ENGLISH.finditer(text)]


def english_parts(text: str) -> list[Span]:
    """Words with contractions taken apart."""
    parts: list[Span] = []
    for start, end in english_words(text):
        cut = _CONTRACTION.search(text[start:end])
        if cut and cut.start():
            parts += ((start, start + cut.start()), (start + cut.start(), end))
        else:
            parts.append((start, end))
    return parts


def chinese_words() -> Callable[[str], list[Span]]:
    """jieba's segmentation. rjieba is jieba in Rust: the same dictionary and cuts, 18 times as fast."""
    tokenize = needed("rjieba", "segmentation of Chinese").tokenize

    def words(text: str) -> list[Span]:
        return [(start, end) for word, start, end in tokenize(text) if not word.isspace()]

    return words


_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_PLAIN = re.compile(rf"[{_HAN}]|(?:(?![{_HAN}])[^\W_])+(?:['’][^\W\d_]+)*")
_PLAIN_ASCII = re.compile("[a-z0-9]+(?:'[a-z]+)*")


def plain_words(text: str) -> list[str]:
    """What statistics and near duplicates go by: words in small letters, Chinese characters one by one."""
    text = text.lower()
    return (_PLAIN_ASCII if text.isascii() else _PLAIN).findall(text)
