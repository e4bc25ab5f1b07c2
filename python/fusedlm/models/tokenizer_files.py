"""The tokenizer's files in a model folder, the same in ours and in Hugging Face's.

tokenizer.json; tokenizer_config.json with special tokens and chat template (or chat_template.jinja);
generation_config.json with the tokens that end a text. Those of a tokenizer trained here are the first
alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fusedlm.data.tokenizer import Tokenizer
from fusedlm.errors import CorruptFileError

from .files import read_json, write_json

TOKENIZER, SETTINGS, GENERATION = (
    "tokenizer.json", "tokenizer_config.json", "generation_config.json",
)  # fmt: skip
TEMPLATE = "chat_template.jinja"


def read_tokenizer(folder: Path, vocab_size: int) -> Tokenizer | None:
    """None where tokenizer.json is missing; CorruptFileError where it has more tokens than the model."""
    file = folder / TOKENIZER
    if not file.exists():
        return None
    settings = read_json(folder / SETTINGS, optional=True)
    if (folder / TEMPLATE).is_file():
        settings["chat_template"] = _read_template(folder / TEMPLATE)
    ends = read_json(folder / GENERATION, optional=True).get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    ends = [i for i in ends if type(i) is int and 0 <= i < vocab_size]
    tokenizer = Tokenizer.load(file, settings, ends)
    if tokenizer.vocab_size > vocab_size:
        raise CorruptFileError(
            file, f"has {tokenizer.vocab_size} tokens, the model's vocab_size is {vocab_size}"
        )
    return tokenizer


def _read_template(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFileError(file, f"is not UTF-8 ({error})") from None


def check_size(caller: str, tokenizer: Tokenizer, vocab_size: int) -> None:
    """ValueError where a tokenizer has more tokens than the model beside it, as no reader takes such."""
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"{caller}: tokenizer has {tokenizer.vocab_size} tokens, expected at most the model's"
            f" vocab_size of {vocab_size}"
        )


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(folder / TOKENIZER)
    if tokenizer.settings:
        write_json(folder / SETTINGS, tokenizer.settings)
    if tokenizer.settings and tokenizer.end_ids:
        write_json(folder / GENERATION, generation_config(tokenizer))


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """What transformers reads as the defaults of `generate`: which tokens begin, end and pad."""
    ends = list(tokenizer.end_ids)
    values = {"eos_token_id": ends[0] if len(ends) == 1 else ends or None}
    for name in ("bos_token", "pad_token"):
        if name in tokenizer.special:
            values[f"{name}_id"] = tokenizer.token_id(tokenizer.special[name])
    return {name: value for name, value in values.items() if value is not None}
