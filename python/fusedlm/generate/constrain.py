"""Output that follows a JSON schema, a regular expression or a grammar, through llguidance.

Before each draw llguidance says which tokens may come next; all others get probability 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from llguidance._lib import JsonCompileOptions

# Blanks between the parts of a document as json.dumps writes them, and no others: a small model would
# otherwise fill its answer with line breaks, which the grammar cannot forbid.
_JSON_LAYOUT: JsonCompileOptions = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


class Constraint:
    """A checked grammar for the tokens of one model; made by `Constrainer`."""

    def __init__(self, tokens: LLTokenizer, grammar: str) -> None:
        self._tokens = tokens
        self._grammar = grammar

    def start(self) -> Callable[[list[int], memoryview], bool]:
        """The `allow` of one request: which tokens may follow those that have come."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokens, self._grammar, log_level=0)
        ends = self._end_mask()
        read: list[int] = []

        def allow(new_tokens: list[int], mask: memoryview) -> bool:
            same = 0
            while same < min(len(read), len(new_tokens)) and read[same] == new_tokens[same]:
                same += 1
            if same < len(read):
                matcher.rollback(len(read) - same)
                del read[same:]
            matcher.consume_tokens(new_tokens[same:])
            read.extend(new_tokens[same:])
            # A matcher that gave up (limits, a token that the grammar has not) ends the text.
            bits = ends if matcher.is_error() else matcher.compute_bitmask()
            room = mask.cast("B")  # llguidance has a word to spare where the last one is full
            room[:] = bits[: room.nbytes]
            return True

        return allow

    def _end_mask(self) -> bytes:
        bits = bytearray(self._tokens.vocab_size // 32 * 4 + 4)
        for token in self._tokens.eos_tokens:
            bits[token // 8] |= 1 << token % 8
        return bytes(bits)


class Constrainer:
    """Makes constraints for one vocabulary, which takes it about half a second to index."""

    def __init__(self, tokenizer_json: str, vocab_size: int, end_ids: Sequence[int]) -> None:
        try:
            from llguidance import LLTokenizer
        except ImportError as error:
            raise NotImplementedError(
                "constrained output needs llguidance: pip install 'fusedlm[constrain]'"
            ) from error
        if not end_ids:
            raise ValueError("generate: constrained output needs a model with an end-of-text token")
        try:
            self._tokens = LLTokenizer(tokenizer_json, n_vocab=vocab_size, eos_token=[*end_ids])
        except ValueError as error:
            raise NotImplementedError(
                "constrained output needs a tokenizer of bytes: byte-level BPE, or SentencePiece's BPE"
                f" with a token for each byte ({error})"
            ) from error

    def make(
        self, *, schema: Any = None, regex: str | None = None, grammar: str | None = None
    ) -> Constraint | None:
        """None where nothing is asked for. schema: a JSON schema as a dict or JSON text (True: any
        object); regex: of the whole output; grammar: Lark's notation. Raises ValueError by name."""
        given = {"schema": schema, "regex": regex, "grammar": grammar}
        names = [name for name, value in given.items() if value is not None]
        if not names:
            return None
        if len(names) > 1:
            raise ValueError(f"generate: give one of {' and '.join(names)}, not both")
        return self._checked(names[0], given[names[0]])

    def _checked(self, name: str, value: Any) -> Constraint:
        from llguidance import LLMatcher

        if name == "schema":
            text = _json_grammar(value)
        elif not isinstance(value, str) or not value:
            raise ValueError(f"generate: {name} is {value!r}, expected a string that is not empty")
        elif name == "regex":
            text = LLMatcher.grammar_from_regex(value)
        else:
            text = LLMatcher.grammar_from_lark(value)
        failed, messages = LLMatcher.validate_grammar_with_warnings(text, self._tokens)
        if failed:
            raise ValueError(f"generate: {name} does not fit: {messages[0].strip()}")
        return Constraint(self._tokens, text)


def _json_grammar(schema: Any) -> str:
    from llguidance import LLMatcher

    if schema is True:
        schema = {"type": "object"}
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except json.JSONDecodeError as error:
            raise ValueError(f"generate: schema is not valid JSON ({error})") from error
    if not isinstance(schema, dict):
        raise ValueError(f"generate: schema is {schema!r}, expected a JSON schema (an object)")
    return LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_LAYOUT)
