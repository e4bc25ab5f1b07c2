"""tokenizer.json of several kinds, and the files beside it, read in Python and by the engine's tokenizer."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from fusedlm import _core
from fusedlm.data.tokenizer import Tokenizer, train_bpe, train_chars, train_words
from fusedlm.generate import Vocabulary
from fusedlm.models.tokenizer_files import GENERATION, SETTINGS, TEMPLATE, TOKENIZER

from ..case import Case, Target
from ..mutate import damage_bytes, damage_json, damage_lines, mostly

TEXT = "abc <|endoftext|> d\xff é 12"
CHAT = [{"role": "user", "content": "abc"}]
_JSON = mostly(damage_json, damage_bytes, 0.85)


def _python(path: Path) -> None:
    tokenizer = Tokenizer.load(path)
    with contextlib.suppress(ValueError):  # of the text, which is in no file
        _use(tokenizer)


def _use(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_batch([TEXT, ""], add_special=True, longest=8)[0]
    tokenizer.encode_spans([TEXT])
    tokenizer.decode([i for i in ids if i < tokenizer.vocab_size])


def _engine(path: Path) -> None:
    tokenizer = _core.Tokenizer.load(str(path))
    ids = tokenizer.encode(TEXT)
    tokenizer.decode(ids)
    stream = _core.TextStream(tokenizer)
    for token in ids:
        stream.add([token])


def _folder(path: Path) -> None:
    vocabulary = Vocabulary.load(path.parent, 1000)
    if vocabulary.template is not None:
        with contextlib.suppress(ValueError):  # of the messages, which are in no file
            vocabulary.template.render(CHAT)


def _bpe(byte_level: bool = True) -> bytes:
    """Byte-level BPE with few tokens: most of a trained one's file are its 256 bytes."""
    described = json.loads(train_bpe("abc abd", 258).to_json())
    tokens = ["a", "b", "c", "Ġ", "ab", "abc", "<|endoftext|>"]
    described["model"]["vocab"] = {token: i for i, token in enumerate(tokens)}
    described["model"]["merges"] = [["a", "b"], ["ab", "c"]]
    described["added_tokens"][0]["id"] = 6
    if not byte_level:
        described["pre_tokenizer"], described["decoder"] = {"type": "Metaspace", "replacement": "▁",
            "prepend_scheme": "always", "split": True}, None  # fmt: skip
        described["normalizer"] = {"type": "NFC"}
    return json.dumps(described).encode()


def _with_model(model: dict) -> bytes:
    described = json.loads(train_chars("ab").to_json())
    described |= {"model": model, "added_tokens": [], "pre_tokenizer": {"type": "BertPreTokenizer"}}
    described["normalizer"] = {
        "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
        "lowercase": True,
    }  # fmt: skip
    described["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}},
    }
    return json.dumps(described).encode()


def _pieces(metaspace: bool) -> bytes:
    """SentencePiece's BPE: as Llama 2 has it, or with Mistral's pre-tokenizer in place of the normalizer."""
    tokens = [
        "<unk>",
        "<s>",
        *(f"<0x{ord(c):02X}>" for c in "d1\n"),
        "▁",
        "a",
        "b",
        "c",
        "ab",
        "▁ab",
        "abc",
    ]
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    described = {
        "added_tokens": [
            {"id": i, "content": tokens[i], "special": True, "normalized": i == 0,
             "single_word": False, "lstrip": False, "rstrip": False} for i in (0, 1)
        ],
        "normalizer": None if metaspace else
            {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, mark]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first",
                          "split": False} if metaspace else None,
        "post_processor": {
            "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                                     {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
            "ignore_merges": False, "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [["a", "b"], ["▁", "ab"], ["ab", "c"]],
        },
    }  # fmt: skip
    return json.dumps(described).encode()


def _cases() -> list[Case]:
    words = {"[UNK]": 0, "[CLS]": 1, "a": 2, "##b": 3, "c": 4}
    word_piece = {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": words,
    }  # fmt: skip
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["[CLS]", -1.0], ["a", -2.0]],
               "byte_fallback": False}  # fmt: skip
    files = {TOKENIZER: _bpe(), SETTINGS: json.dumps(
        {"eos_token": {"content": "<|endoftext|>", "special": True}, "bos_token": "a", "pad_token": None,
         "chat_template": [{"name": "default", "template": "{{ bos_token }}{% for m in messages %}{{ m.content }}"
                            "{% endfor %}"}]}).encode(),
        GENERATION: b'{"eos_token_id": [6, 2], "bos_token_id": 0}'}  # fmt: skip
    template = (
        b"{% for m in messages %}<{{ m.role }}>{{ m['content'] | trim }}\n{% endfor %}"
        b"{% if add_generation_prompt %}<assistant>{% endif %}{{ raise_exception('no') if false }}"
    )

    def one(name: str, valid: bytes, read) -> Case:
        return Case(name, TOKENIZER, valid, _JSON, read)

    def beside(name: str, file: str, valid: bytes, damage) -> Case:
        others = {other: data for other, data in files.items() if other != file}
        return Case(name, file, valid, damage, _folder, others)

    return [
        one("bpe", _bpe(), _python),
        one("bpe-engine", _bpe(), _engine),
        one("pieces", _pieces(metaspace=False), _python),
        one("pieces-engine", _pieces(metaspace=False), _engine),
        one("metaspace-engine", _pieces(metaspace=True), _engine),
        one("words", train_words("abc d é 1", 9).to_json().encode(), _python),
        one("characters", train_chars("abc d").to_json().encode(), _python),
        one("metaspace", _bpe(byte_level=False), _python),
        one("word-piece", _with_model(word_piece), _python),
        one("unigram", _with_model(unigram), _python),
        beside("settings", SETTINGS, files[SETTINGS], _JSON),
        beside("generation", GENERATION, files[GENERATION], _JSON),
        beside("template", TEMPLATE, template, mostly(damage_lines, damage_bytes, 0.3)),
    ]


TARGET = Target("tokenizer", _cases)
