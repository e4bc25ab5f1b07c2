"""GGUF files, read by the engine, its tokenizer, and in Python."""

from __future__ import annotations

import tempfile
from pathlib import Path

from gguf import GGUFWriter

from fusedlm import _core
from fusedlm.data.tokenizer import train_bpe
from fusedlm.models import export_gguf
from fusedlm.models.gguf import load_gguf, load_tokenizer
from fusedlm.models.gguf_file import GgufFile

from ..case import Case, Target
from ..gguf_layout import damage_gguf
from ..mutate import damage_bytes
from .models import small_decoder


def _file(config_of: dict, tokenizer: bool = False) -> bytes:
    trained = train_bpe("abc abd ab c", 260)
    model = small_decoder(**{**config_of, "vocab_size": trained.vocab_size})
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "model.gguf"
        export_gguf(model, trained if tokenizer else None, written, format="float32")
        return written.read_bytes()


def _pieces() -> bytes:
    """Metadata alone: SentencePiece's BPE as llama.cpp's converter writes it for Llama 2."""
    tokens = [
        "<unk>",
        "<s>",
        *(f"<0x{ord(c):02X}>" for c in "d<\n"),
        "▁",
        "a",
        "b",
        "c",
        "ab",
        "▁ab",
        "abc",
    ]
    scores = [0.0] * 5 + [-9.0] * 4 + [-1.0, -2.0, -2.0]
    with tempfile.TemporaryDirectory() as folder:
        writer = GGUFWriter(Path(folder) / "model.gguf", "llama")
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores(scores)
        writer.add_token_types([2, 3, 6, 6, 6, *[1] * 7])
        writer.add_bos_token_id(1)
        writer.add_add_space_prefix(True)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return (Path(folder) / "model.gguf").read_bytes()


def _engine(path: Path) -> None:
    _core.Model.load(str(path))


def _every_tensor(path: Path) -> None:
    file = GgufFile(path)
    for name in sorted(file.names()):
        file.read(name)


def _tokenizers(path: Path) -> None:
    _core.Tokenizer.load(str(path)).encode("abc <|endoftext|> \xff")


def _python_tokenizer(path: Path) -> None:
    load_tokenizer(path)[0].encode("abc <|endoftext|>", add_special=True)


def _cases() -> list[Case]:
    pieces = _pieces()
    plain, gpt2, full = _file({}), _file({"llama": False}), _file({}, tokenizer=True)

    def case(name: str, valid: bytes, read, damage=damage_gguf) -> Case:
        return Case(name, "model.gguf", valid, damage, read)

    return [
        case("engine", plain, _engine),
        case("engine-gpt2", gpt2, _engine),
        case("tensors", plain, _every_tensor),
        case("python", plain, lambda path: load_gguf(path)),
        case("python-gpt2", gpt2, lambda path: load_gguf(path)),
        case("engine-tokenizer", full, _tokenizers),
        case("python-tokenizer", full, _python_tokenizer),
        case("engine-pieces", pieces, _tokenizers),
        case("python-pieces", pieces, _python_tokenizer),
        case("engine-bytes", full, _engine, damage_bytes),
    ]


TARGET = Target("gguf", _cases)
