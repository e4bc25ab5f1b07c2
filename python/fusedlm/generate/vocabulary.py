"""What a model's files say of its texts: tokenizer, tokens that end a text, chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.errors import CorruptFileError

from .chat_template import ChatTemplate

_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class Vocabulary:
    """`end_ids` beside the model's own; `template` is None where the files have none."""

    tokenizer: Tokenizer
    end_ids: tuple[int, ...] = ()
    template: ChatTemplate | None = None
    special: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, metadata: Mapping[str, str]) -> Vocabulary:
        """Of a model folder or a .gguf file, whose `metadata` the engine has read.

        Raises FileNotFoundError or CorruptFileError naming the file.
        """
        return _of_folder(path) if path.is_dir() else _of_gguf(path, metadata)


def _of_folder(folder: Path) -> Vocabulary:
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    settings = _read(folder / "tokenizer_config.json")
    special = _special_tokens(settings)
    ends = [tokenizer.eos_id]
    if "eos_token" in special:
        ends.append(tokenizer.token_id(special["eos_token"]))
    more = _read(folder / "generation_config.json").get("eos_token_id")
    ends += more if isinstance(more, list) else [more]
    return Vocabulary(tokenizer, _unique(ends), _template(folder, settings, special), special)


def _of_gguf(path: Path, metadata: Mapping[str, str]) -> Vocabulary:
    from fusedlm.models.gguf import load_tokenizer

    tokenizer, special = load_tokenizer(path)
    ends = [tokenizer.eos_id, *(tokenizer.token_id(token) for token in special.values())]
    source = metadata.get("tokenizer.chat_template")
    template = _compiled(path, source, special) if source else None
    return Vocabulary(tokenizer, _unique(ends), template, special)


def _template(
    folder: Path, settings: dict[str, Any], special: dict[str, str]
) -> ChatTemplate | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return _compiled(file, file.read_text(encoding="utf-8"), special)
    source = settings.get("chat_template")
    if isinstance(source, list):  # several by name; "default" is for plain conversations
        named = {t.get("name"): t.get("template") for t in source if isinstance(t, dict)}
        source = named.get("default")
    if source is None:
        return None
    return _compiled(folder / "tokenizer_config.json", source, special)


def _compiled(file: Path, source: Any, special: dict[str, str]) -> ChatTemplate:
    if not isinstance(source, str):
        raise CorruptFileError(file, f"chat_template is {source!r}, expected a string")
    try:
        return ChatTemplate(source, special)
    except ValueError as error:
        raise CorruptFileError(file, str(error)) from error


def _special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    special = {}
    for name in _SPECIAL:
        value = settings.get(name)
        if isinstance(value, dict):  # an AddedToken, written out
            value = value.get("content")
        if isinstance(value, str):
            special[name] = value
    return special


def _read(file: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where the file is missing."""
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptFileError(file, f"not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise CorruptFileError(file, f"holds a {type(values).__name__}, expected an object")
    return values


def _unique(ids: list[int | None]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(i for i in ids if type(i) is int and i >= 0))
