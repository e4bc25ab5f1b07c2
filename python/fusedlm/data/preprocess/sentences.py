"""Sentences of English and Chinese, by rules.

A sentence ends after . ! ? … or their Chinese forms, with the quotes and brackets that close there,
and at an empty line. A full stop does not end it after an abbreviation or an initial, between digits,
or before a word in small letters.
"""

from __future__ import annotations

import re

_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof rev hon st gen col capt lt sgt maj cmdr gov sen rep pres messrs mme mlle"
    " vs cf al approx dept est ed eds vol no nos pp p fig figs eq ch sec art para ca"
    " jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun ave blvd rd mt ft"
    " e.g i.e v viz".split()
)
# Those that also stand at the end of a sentence: before a capital letter they do end one.
_MAY_END = frozenset("etc inc ltd co corp a.m p.m jr sr".split())
# After initials ("U.S. Army", "Ph.D. thesis") a capital letter says little; these words do.
_INITIALS = re.compile(r"(?:[a-z]{1,2}\.)+[a-z]{1,2}$")
_OPENERS = frozenset(
    "the a an this that these those he she it they we i you there here but and so then when while if"
    " in on at for as after before since his her its their our my what who why how where however".split()
)
_CLOSING = "\"'”’»)\\]}」』》）】"
_END = re.compile(
    rf"(?P<chinese>[。！？!?…]*[。！？][。！？!?…]*[{_CLOSING}]*)"
    rf"|(?P<latin>[.!?…]+[{_CLOSING}]*)(?=\s|$)"
    r"|(?P<gap>\n\s*\n)"
)
_BEFORE = re.compile(r"[^\s(\[\"'“‘]*$")
_NEXT = re.compile(r"\s+[\"'“‘(\[¿¡-]*(?P<word>\w+|\S)?")


def split_sentences(text: str) -> list[str]:
    """The sentences, without the blanks around them."""
    sentences = []
    start = 0
    for match in _END.finditer(text):
        if match["latin"] and not _ends_here(text, start, match):
            continue
        sentences.append(text[start : match.end()])
        start = match.end()
    sentences.append(text[start:])
    return [" ".join(s.split()) for s in sentences if s.strip()]


def _ends_here(text: str, start: int, match: re.Match[str]) -> bool:
    following = _NEXT.match(text, match.end())
    after = following["word"] if following else None
    if after is None:
        return True
    if after[0].islower():  # "etc. and so on", "e.g. one"
        return False
    if match["latin"] != ".":
        return True
    before = _BEFORE.search(text, max(start, match.start() - 40), match.start())
    word = before[0] if before else ""
    if len(word) == 1 and word.isupper() and word != "I":  # J. S. Bach
        return False
    word = word.lower()
    if word in _MAY_END:
        return after[0].isupper()
    if _INITIALS.match(word):
        return after.lower() in _OPENERS and word not in _ABBREVIATIONS
    if word in ("no", "nos", "p", "pp", "v"):  # numbers come after these, else they are words
        return not after[0].isdigit()
    return word not in _ABBREVIATIONS
