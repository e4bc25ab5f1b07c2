"""What a model's files say of its texts: tokenizer, tokens that end a text, chat template."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.errors import CorruptFileError

from .chat_template import ChatTemplate


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer and how conversations are written; `template` is None where that is not said."""

    tokenizer: Tokenizer
    template: ChatTemplate | None = None

    @classmethod
    def load(cls, path: Path, vocab_size: int) -> Vocabulary:
        """Of a model folder or a .gguf file. Raises FileNotFoundError or CorruptFileError."""
        return cls.of(_tokenizer(path, vocab_size), path)

    @classmethod
    def of(cls, tokenizer: Tokenizer, path: Path) -> Vocabulary:
        """With the template in the tokenizer's settings, which come from `path`."""
        source = tokenizer.settings.get("chat_template")
        if isinstance(source, list):  # several by name; "default" is for plain conversations
            default = [t for t in source if isinstance(t, dict) and t.get("name") == "default"]
            source = default[-1].get("template") if default else None
        if source is None:
            return cls(tokenizer)
        if not isinstance(source, str):
            raise CorruptFileError(path, f"chat_template is {source!r}, expected a string")
        try:
            return cls(tokenizer, ChatTemplate(source, tokenizer.special))
        except ValueError as error:
            raise CorruptFileError(path, str(error)) from error


def _tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    if path.is_dir():
        from fusedlm.models.tokenizer_files import TOKENIZER, read_tokenizer

        tokenizer = read_tokenizer(path, vocab_size)
        if tokenizer is None:
            raise FileNotFoundError(f"{path / TOKENIZER} is missing")
        return tokenizer
    from fusedlm.models.gguf import load_tokenizer

    return load_tokenizer(path)[0]
