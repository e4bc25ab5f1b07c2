"""What `fusedlm preprocess` is told to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .characters import FORMS, Form
from .inputs import SPLITS, ReadSettings
from .lines import check_encoding
from .masking import KINDS
from .stop_words import load_stop_words

SHAPES = ("text", "sentences", "words", "tags")
DUPLICATES = ("keep", "exact", "near")


@dataclass(frozen=True)
class Settings:
    """Every field is an option of the command; the steps are carried out in this order."""

    read: ReadSettings = field(default_factory=ReadSettings)
    fix_encoding: bool = False
    html: bool = True
    unicode: Form | Literal["none"] = "NFC"
    spaces: bool = True
    mask: tuple[str, ...] = ()
    min_chars: int = 1
    languages: bool = False
    keep_languages: tuple[str, ...] = ()
    duplicates: str = "exact"
    similarity: float = 0.8
    language: str = "auto"
    stop_words: str = ""
    shape: str = "text"
    lower: bool = False
    drop_fields: tuple[str, ...] = ()
    one_a_line: bool | None = None  # of text files; None: as the lines of the input were
    strict: bool = False
    workers: int = 1

    def check(self) -> None:
        """ValueError that names the first field with a value that is none of its own."""
        check_encoding(self.read.encoding)
        _one_of("split", self.read.split, SPLITS)
        _one_of("broken", self.read.broken, ("drop", "replace"))
        _one_of("unicode", self.unicode, (*FORMS, "none"))
        _one_of("duplicates", self.duplicates, DUPLICATES)
        _one_of("language", self.language, ("auto", "en", "zh"))
        _one_of("as", self.shape, SHAPES)
        for kind in self.mask:
            _one_of("mask", kind, tuple(KINDS))
        if len(self.read.delimiter) != 1 or self.read.delimiter in '\r\n"':
            raise ValueError(f"delimiter is {self.read.delimiter!r}, expected one character")
        for name in ("max_chars", "min_chars", "workers"):
            value = self.read.max_chars if name == "max_chars" else getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        if not 0.3 <= self.similarity <= 1:
            raise ValueError(f"similarity is {self.similarity}, expected 0.3 to 1")
        if self.stop_words:
            load_stop_words(self.stop_words)


def step_names(settings: Settings) -> list[str]:
    """The steps that are carried out, as the report names them, in their order."""
    wanted = {
        "encoding": settings.fix_encoding,
        "html": settings.html,
        "unicode": settings.unicode != "none",
        "spaces": settings.spaces,
        "mask": bool(settings.mask),
        "too short": True,
        "language": bool(settings.keep_languages),
        settings.shape: settings.shape != "text",
        "stop words": bool(settings.stop_words),
        "duplicates": settings.duplicates != "keep",
    }
    return [name for name, is_wanted in wanted.items() if is_wanted]


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")
