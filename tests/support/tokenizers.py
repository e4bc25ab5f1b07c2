"""Texts that are hard to cut into tokens, and small tokenizers of the kinds that models have."""

from __future__ import annotations

import json
import random
import unicodedata
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as pre

from fusedlm.data.corpus import load_corpus

ENGLISH = (
    "I'll say it's what THEY'VE DONE, don't you'd think? We're 1234567 years old; o'clock 'Tis.\n"
)
GERMAN = "Über den Wölfen muß Größe süß sein – „Äpfel“ kosten 3,50 €; Straße, Öl, naïve Café.\r\n"
CHINESE = "床前明月光,疑是地上霜。举头望明月,低头思故乡。李白(701年-762年)、字太白。\n\n"
OTHERS = "Привет, мир! שלום עולם مرحبا بالعالم नमस्ते दुनिया こんにちは 세계 ελληνικά ไทย ١٢٣ Ⅷ ½ ²\n"
EMOJI = "👍🏽 👩‍👩‍👧‍👦 🇩🇪🇨🇳 ❤️ ☕️🫠 text:) :-( 🏳️‍🌈!!!\n"
SPACES = "a  b   c\t\td \n e\n\n\nf \r\n  \r\n g\u00a0h\u2003i\u3000\u3000j\u2028k  \u0085 l   "
TEXTS = (ENGLISH, GERMAN, CHINESE, OTHERS, EMOJI, SPACES)
MARK = "▁"


@cache
def plays() -> str:
    return load_corpus("shakespeare")[:400_000]


def random_texts(count: int, seed: int) -> list[str]:
    """Mixtures of what splits text in unlike ways, and of any characters at all: 2 * `count` of them."""
    chance = random.Random(seed)
    pieces = [
        " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "'", "'s", "'S", "'ll", "'Re", "'\u017f",
        "a", "Hello", "é", "e\u0301", "ß", "你好", "12", "3", "²", "Ⅷ", ".", "...", "!?", "_", "👍🏽",
        "<|end|>", "<|im_start|>", "<|im", "\u0301", "\u200d", "한", "\u1112\u1161\u11ab", "\x00", "\x7f",
        "LOUD", "É", "ǅ", "ʰ", "/", MARK, "<s>", "</s>", "<unk>", "<0x41>",
    ]  # fmt: skip
    texts = ["".join(chance.choices(pieces, k=chance.randrange(1, 30))) for _ in range(count)]
    old = [
        chr(c) for c in range(sys_maxunicode()) if unicodedata.category(chr(c)) not in ("Cs", "Cn")
    ]
    return texts + ["".join(chance.choices(old, k=40)) for _ in range(count)]


def sys_maxunicode() -> int:
    return 0x32000  # everything but private use and variation selectors


def sentence_piece(*texts: str, size: int = 1200) -> Tokenizer:
    """BPE over characters with bytes to fall back on, in the tokenizer.json of Llama 2."""
    special = ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre.Metaspace()  # words, so that the training is quick
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        limit_alphabet=150, show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    described = json.loads(tokenizer.to_str())
    described["pre_tokenizer"] = None
    described["added_tokens"] = [t for t in described["added_tokens"] if t["content"] in special]
    return Tokenizer.from_str(json.dumps(described))


def scored(tokenizer: Tokenizer) -> dict[str, Any]:
    """The metadata by which GGUF describes a tokenizer made by `sentence_piece`."""
    described = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(described["vocab"], key=described["vocab"].get)
    ranks = {"".join(merge): rank for rank, merge in reversed([*enumerate(described["merges"])])}
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3}
    byte = {f"<0x{b:02X}>" for b in range(256)}
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(ranks.get(token, len(tokens))) for token in tokens],
        "tokenizer.ggml.token_type": [6 if t in byte else kinds.get(t, 1) for t in tokens],
        "tokenizer.ggml.bos_token_id": tokens.index("<s>"),
        "tokenizer.ggml.eos_token_id": tokens.index("</s>"),
        "tokenizer.ggml.unknown_token_id": tokens.index("<unk>"),
    }
