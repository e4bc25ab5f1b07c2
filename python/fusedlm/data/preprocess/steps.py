"""The steps that look at one row alone: cleaning, masking, languages, words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .characters import guess_language, normalise, squeeze
from .duplicates import exact_signature, near_signature
from .inputs import shown
from .markup import strip_html
from .masking import mask
from .optional import needed
from .rows import Bad, Row, Tally
from .sentences import split_sentences
from .settings import Settings
from .stop_words import load_stop_words
from .tags import chinese_tagger, english_tagger
from .words import Span, chinese_words, english_parts, english_words

Tallies = dict[str, Tally]
_EXCERPT = 60  # characters on either side of the first change
_DETECTED = 2000  # characters of a text that its language is told by


class Steps:
    """Carries out the steps of `settings` on rows, and counts in `tallies` what each does.

    Everything they need is loaded here: a package that is missing shows before the first row.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.tallies: Tallies = {}
        self._cleaning = self._cleaners()
        self._detect = None
        if settings.languages or settings.keep_languages:
            self._detect = needed("py3langid", "finding out languages").classify
        self._stop_words = load_stop_words(settings.stop_words) if settings.stop_words else None
        self._load_words()

    def _cleaners(self) -> dict[str, Callable[[str], str]]:
        s = self._settings
        steps: dict[str, Callable[[str], str]] = {}
        if s.fix_encoding:
            steps["encoding"] = needed("ftfy", "--fix-encoding").fix_encoding
        if s.html:
            steps["html"] = strip_html
        if s.unicode != "none":
            form = s.unicode
            steps["unicode"] = lambda text: normalise(text, form)
        if s.spaces:
            steps["spaces"] = squeeze
        return steps

    def _load_words(self) -> None:
        s = self._settings
        languages = ("en", "zh") if s.language == "auto" else (s.language,)
        words = {"en": lambda: english_words, "zh": chinese_words}
        taggers = {"en": english_tagger, "zh": chinese_tagger}
        self._words: dict[str, Any] = {}
        self._taggers: dict[str, Any] = {}
        try:
            if self._stop_words or s.shape == "words":
                self._words = {language: words[language]() for language in languages}
            if s.shape == "tags":
                self._taggers = {language: taggers[language]() for language in languages}
        except ValueError as error:
            hint = "; for English alone --language en" if s.language == "auto" else ""
            raise ValueError(f"{error}{hint}") from error

    def take_tallies(self) -> Tallies:
        """What was counted since the last call."""
        taken, self.tallies = self.tallies, {}
        return taken

    def __call__(self, row: Row) -> Row | Bad | None:
        """The row, changed; None if a step drops it. A step that fails makes a `Bad` of it."""
        try:
            return self._carry_out(row)
        except Exception as error:
            # The message may quote the text, which is not for the report where data is masked.
            detail = "" if self._settings.mask else f": {shown(str(error))}"
            what = f"a step failed with {type(error).__name__}{detail}"
            return Bad(row.file, row.line, "failed", what)

    def _carry_out(self, row: Row) -> Row | None:
        s = self._settings
        for name, step in self._cleaning.items():
            before, row.text = row.text, step(row.text)
            if row.text != before:
                self._changed(name, row, before)
        if s.mask:
            before = row.text
            row.text, counts = mask(row.text, s.mask)
            if counts:
                tally = self._changed("mask", row, before)
                for kind, number in counts.items():
                    tally.count(kind, number)
        if len(row.text.strip()) < s.min_chars:
            self._dropped("too short", row)
            return None
        if not self._right_language(row):
            return None
        if s.duplicates != "keep":
            row.signature = (near_signature if s.duplicates == "near" else exact_signature)(
                row.text
            )
        for name in s.drop_fields:
            row.fields.pop(name, None)
        if not self._shape(row):
            self._dropped("stop words", row)
            return None
        if s.lower:
            _lower(row)
        return row

    def _right_language(self, row: Row) -> bool:
        if self._detect is None:
            return True
        row.language = self._detect(row.text[:_DETECTED])[0]
        kept = not self._settings.keep_languages or row.language in self._settings.keep_languages
        if not kept:
            self._dropped("language", row)
            self._tally("language").count(row.language)
        return kept

    def _shape(self, row: Row) -> bool:
        """Sentences, words, tags; stop words out. False if nothing is left."""
        s, stop = self._settings, self._stop_words
        language = guess_language(row.text) if s.language == "auto" else s.language
        before = row.text
        if s.shape in ("words", "tags"):
            self._to_words(row, language)
        elif s.shape == "sentences":
            row.pieces = split_sentences(row.text)
            self._tally("sentences").count("sentences", len(row.pieces))
        if stop and s.shape in ("text", "sentences"):
            removed = self._without_stop_words(row, language)
            if removed:
                self._changed("stop words", row, before).count("words", removed)
        return bool(row.text and (row.pieces is None or row.pieces))

    def _to_words(self, row: Row, language: str) -> None:
        text = row.text
        tags: list[str] | None = None
        if not self._taggers:
            spans = self._words[language](text)
        elif language == "zh":
            spans, tags = self._taggers["zh"](text)
        else:
            spans = english_parts(text)
            tags = self._taggers["en"]([text[start:end] for start, end in spans])
        kept = list(range(len(spans)))
        if self._stop_words:
            kept = [i for i in kept if text[slice(*spans[i])].lower() not in self._stop_words]
            if len(kept) < len(spans):
                tally = self._tally("stop words")
                tally.changed += 1
                tally.count("words", len(spans) - len(kept))
        row.words = [text[slice(*spans[i])] for i in kept]
        row.tags = [tags[i] for i in kept] if tags is not None else None
        shown = row.words
        if row.tags is not None:
            shown = [f"{word}/{tag}" for word, tag in zip(row.words, row.tags, strict=True)]
        row.text = _laid_out(text, [spans[i] for i in kept], shown)
        self._tally(self._settings.shape).count("words", len(kept))

    def _without_stop_words(self, row: Row, language: str) -> int:
        """Takes them out of text and sentences; how many."""
        find, stop = self._words[language], self._stop_words or frozenset()

        def strip(text: str) -> tuple[str, int]:
            gone = [span for span in find(text) if text[slice(*span)].lower() in stop]
            pieces, kept = [], 0
            for start, end in gone:
                pieces.append(text[kept:start])
                kept = end
            return squeeze("".join((*pieces, text[kept:]))), len(gone)

        if row.pieces is None:
            row.text, removed = strip(row.text)
            return removed
        stripped = [strip(piece) for piece in row.pieces]
        row.pieces = [piece for piece, _ in stripped if piece]
        row.text = "\n".join(row.pieces)
        return sum(count for _, count in stripped)

    def _tally(self, name: str) -> Tally:
        return self.tallies.setdefault(name, Tally())

    def _changed(self, name: str, row: Row, before: str) -> Tally:
        tally = self._tally(name)
        tally.changed += 1
        if len(tally.examples) < Tally.EXAMPLES:
            tally.example(row, **self._excerpts(before, row.text))
        return tally

    def _dropped(self, name: str, row: Row) -> None:
        tally = self._tally(name)
        tally.dropped += 1
        tally.example(row)

    def _excerpts(self, before: str, after: str) -> dict[str, str]:
        """Both texts around their first difference; nothing of them where data is to be masked."""
        if self._settings.mask:
            return {}
        pairs = enumerate(zip(before, after, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), min(len(before), len(after)))
        window = slice(max(same - _EXCERPT, 0), same + _EXCERPT)
        return {"before": before[window], "after": after[window]}


def _laid_out(text: str, spans: list[Span], shown: list[str]) -> str:
    """Words with a blank between, or a new line where the text had one."""
    pieces: list[str] = []
    last = 0
    for (start, end), word in zip(spans, shown, strict=True):
        if pieces:
            pieces.append("\n" if "\n" in text[last:start] else " ")
        pieces.append(word)
        last = end
    return "".join(pieces)


def _lower(row: Row) -> None:
    row.text = row.text.lower()
    if row.pieces is not None:
        row.pieces = [piece.lower() for piece in row.pieces]
    if row.words is not None:
        row.words = [word.lower() for word in row.words]
