"""Tokens as one can read them: blanks are seen, and pieces of characters are bytes."""

from __future__ import annotations

from collections.abc import Iterable

from fusedlm.data.tokenizer import Tokenizer

_SEEN = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"})


def token_label(tokenizer: Tokenizer, token: int) -> str:
    if token >= tokenizer.vocab_size:  # some models have more rows than words
        return f"<{token}>"
    text = tokenizer.decode([token])
    raw = tokenizer.token(token)
    if raw is None:
        return f"<{token}>"
    if raw.startswith("##"):  # WordPiece: goes on with the word before
        return raw
    if text and "\ufffd" not in text:
        return _visible(text)
    return _as_bytes(raw) or _visible(raw)


def token_labels(tokenizer: Tokenizer, tokens: Iterable[int]) -> list[str]:
    return [token_label(tokenizer, int(token)) for token in tokens]


def _visible(text: str) -> str:
    """Other blanks and control characters by their numbers."""
    return "".join(c if c.isprintable() else f"‹U+{ord(c):04X}›" for c in text.translate(_SEEN))


def _as_bytes(raw: str) -> str | None:
    """Of a byte-level token that is no whole character: its bytes, "‹E6 88›"."""
    known = _byte_of_character()
    if raw.startswith("<0x") and raw.endswith(">"):  # SentencePiece
        return f"‹{raw[3:-1]}›"
    # A special token is spelled in ASCII, and so is nothing that is not text.
    if raw.isascii() or not all(character in known for character in raw):
        return None
    return f"‹{' '.join(f'{known[character]:02X}' for character in raw)}›"


def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: bytes that can be seen stand for themselves, the others for U+0100 and on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(b): b for b in seen} | {chr(256 + n): b for n, b in enumerate(hidden)}
