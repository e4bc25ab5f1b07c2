"""Masks of llguidance: only tokens that the schema, expression or grammar allows get a bit."""

from __future__ import annotations

import json
import random
import re

import pytest

llguidance = pytest.importorskip("llguidance")

from fusedlm.data.tokenizer import train_bpe, train_chars  # noqa: E402
from fusedlm.generate.constrain import Constrainer  # noqa: E402
from fusedlm.models.gguf_tokenizer import build_tokenizer  # noqa: E402
from tests.support.sentence_pieces import sentence_pieces  # noqa: E402

TEXT = '{"name": "Ada", "age": 36, "tags": ["x", "y"]} the quick brown fox 0123456789 ' * 30
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["byte-level BPE", "SentencePiece"])
def tokenizer(request, tmp_path_factory):
    if request.param == "byte-level BPE":
        return train_bpe(TEXT, 400)
    folder = tmp_path_factory.mktemp("pieces")
    tokenizer = build_tokenizer(folder / "m.gguf", sentence_pieces(folder)[1])
    assert tokenizer is not None
    return tokenizer


@pytest.fixture(scope="module")
def constrainer(tokenizer):
    size = tokenizer.vocab_size + 7  # a vocabulary padded to a round size
    return Constrainer(tokenizer.to_json(), size, [tokenizer.eos_id])


def words(constrainer) -> memoryview:
    return memoryview(bytearray((constrainer._tokens.vocab_size + 31) // 32 * 4)).cast("I")


def allowed(mask: memoryview) -> list[int]:
    return [32 * w + b for w, word in enumerate(mask) for b in range(32) if word >> b & 1]


def write(constrainer, tokenizer, constraint, seed: int) -> str:
    """A text of tokens drawn from those that are allowed, up to the end-of-text token."""
    draw, tokens, mask = random.Random(seed), [], words(constrainer)
    allow = constraint.start()
    for _ in range(400):
        assert allow(tokens, mask)
        token = draw.choice(allowed(mask))
        if token == tokenizer.eos_id:
            return tokenizer.decode(tokens)
        tokens.append(token)
    raise AssertionError("no end was allowed in 400 tokens")


@pytest.mark.parametrize("seed", range(5))
def test_any_allowed_text_is_json_that_fits_the_schema(constrainer, tokenizer, seed):
    jsonschema = pytest.importorskip("jsonschema")
    text = write(constrainer, tokenizer, constrainer.make(schema=SCHEMA), seed)
    jsonschema.validate(json.loads(text), SCHEMA)


def test_a_schema_may_be_text(constrainer, tokenizer):
    text = write(constrainer, tokenizer, constrainer.make(schema=json.dumps(SCHEMA)), 0)
    assert set(json.loads(text)) == {"name", "age", "tags"}


@pytest.mark.parametrize("seed", range(3))
def test_any_allowed_text_matches_the_expression(constrainer, tokenizer, seed):
    expression = r"(fox|quick){2,4} [0-9]{3}"
    text = write(constrainer, tokenizer, constrainer.make(regex=expression), seed)
    assert re.fullmatch(expression, text)


def test_a_grammar_is_followed(constrainer, tokenizer):
    grammar = 'start: "(" start ")" | NUMBER\nNUMBER: /[0-9]{1,3}/'
    text = write(constrainer, tokenizer, constrainer.make(grammar=grammar), 3)
    depth = text.count("(")
    assert re.fullmatch(rf"\({{{depth}}}[0-9]+\){{{depth}}}", text)


def test_tokens_that_are_taken_back_are_forgotten(constrainer, tokenizer):
    constraint, mask = constrainer.make(regex="ab|cd"), words(constrainer)
    a, c = map(tokenizer.token_id, "ac")
    allow = constraint.start()
    allow([], mask)
    first = allowed(mask)
    allow([a], mask)
    after_a = allowed(mask)
    allow([c], mask)
    assert allowed(mask) != after_a
    allow([], mask)
    assert allowed(mask) == first and {a, c} <= set(first)


def test_a_token_that_the_grammar_has_not_leaves_the_end_alone(constrainer, tokenizer):
    mask = words(constrainer)
    allow = constrainer.make(regex="a").start()
    allow([tokenizer.encode("x")[0]], mask)
    assert allowed(mask) == [tokenizer.eos_id]


def test_what_does_not_fit_is_named(constrainer):
    for options, error in (
        ({"regex": "(a"}, "regex does not fit"),
        ({"regex": ""}, "regex is ''"),
        ({"grammar": "start: nothing"}, "grammar does not fit"),
        ({"schema": {"type": "cat"}}, "schema does not fit"),
        ({"schema": "{"}, "schema is not valid JSON"),
        ({"schema": 3}, "schema is 3"),
        ({"schema": {}, "regex": "a"}, "give one of schema and regex"),
    ):
        with pytest.raises(ValueError, match=error):
            constrainer.make(**options)
    assert constrainer.make() is None


def test_tokenizers_that_have_no_bytes_are_refused(tokenizer):
    chars = train_chars("abc")
    with pytest.raises(NotImplementedError, match="byte-level BPE"):
        Constrainer(chars.to_json(), chars.vocab_size, [chars.eos_id])
    with pytest.raises(ValueError, match="needs a model with an end-of-text token"):
        Constrainer(tokenizer.to_json(), tokenizer.vocab_size, [])
