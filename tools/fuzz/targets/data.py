"""Readers of texts: corpora, labelled and tagged ones, translations, conversations, questions, raw ones."""

from __future__ import annotations

import gzip
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

from fusedlm.cli.fairness import _class_of, _read
from fusedlm.data import load_corpus, prepare, read_parallel
from fusedlm.data.conversations import read_conversations
from fusedlm.data.labelled import Columns, Skipped, label_names, read_labelled
from fusedlm.data.preprocess.inputs import ReadSettings, read_rows
from fusedlm.data.questions import read_questions
from fusedlm.data.tagged import read_tagged, tag_names
from fusedlm.evaluation.multiple_choice import read_items
from fusedlm.train.preference import read_preferences

from ..case import Broken, Case, Target
from ..mutate import Mutation, damage_bytes, damage_json, damage_json_lines, damage_lines, mostly

CSV = (
    b'text,label,place\n"good, really",yes,a\nbad,no,b\n"two\nlines",yes,"c ""d"""\n\xc3\xa9,no,\n'
)
TSV = b'text\tlabel\ngood "film\ty\nbad\tn\nso so\ty\n'
JSONL = b'{"text": "good", "label": "yes"}\n{"text": "bad", "label": 0}\n\n{"text": "\\u00e9", "label": "no"}\n'
CONLL = b"-DOCSTART- O\n\n# comment\nAda\tNNP\tB-PER\nsees\tVB\tO\n\nIn IN O\nYork NNP B-LOC\nCity NNP I-LOC\n"
PO = (
    b'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n\n#, fuzzy\nmsgid "a"\nmsgstr "b"\n\n'
    b'msgctxt "menu"\nmsgid "_Open"\nmsgstr "\xc3\x96_ffnen"\n\nmsgid "one"\nmsgid_plural "%d"\n'
    b'msgstr[0] "eins"\nmsgstr[1] "%d"\n\n#~ msgid "x"\n#~ msgstr "y"\n'
)
PAIRS = b'{"source": "Open", "target": "Auf"}\n{"translation": {"source": "a", "target": "b"}}\n'
CHATS = (
    b'{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}, {"role": "assistant",'
    b' "content": "yes"}]}\n{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}\n'
    b'{"instruction": "a", "input": "b", "output": "c"}\n'
)
CHAT_LIST = b"[" + CHATS.strip().replace(b"\n", b",\n") + b', ["a", "b"]]'
YAML = b'categories:\n- AI\nconversations:\n- - What is AI?\n  - A science.\n- - Hello\n  - "Hi: you"\n'
SQUAD = (
    b'{"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": "Ada wrote it.", "qas": [{"id": "1",'
    b' "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]}, {"id": "2", "question": "When?",'
    b' "is_impossible": true, "answers": []}]}]}]}'
)
QUESTIONS = (
    b'{"id": "1", "question": "Who?", "context": "Ada did", "answers": {"text": ["Ada"], "answer_start": [0]}}\n'
    b'{"question": "What?", "context": "Ada did", "answers": [{"text": "did"}]}\n'
)
CHOICES = (
    b'{"query": "1+1", "choices": ["1", "2"], "gold": 1}\n'
    b'{"question": "a", "choices": ["b", "c"], "answer": "b"}\n'
)
PREFERENCES = (
    b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": [{"role": "user", "content": "a"}], "chosen":'
    b' [{"role": "assistant", "content": "x"}], "rejected": [{"role": "assistant", "content": "y"}]}\n'
)
PREDICTIONS = (
    b'{"label": "yes", "prediction": "no", "group": "a"}\n'
    b'{"label": "no", "prediction": "no", "group": "b"}\n'
)
TEXT = b"First line.\nSecond \xc3\xa9 line.\n\nA paragraph\nof two lines.\n"


def _mo() -> bytes:
    pairs = [
        (b"", b"Content-Type: text/plain; charset=UTF-8\n"),
        (b"a\x00as", b"b\x00bs"),
        (b"m\x04Open", b"Auf"),
    ]
    at = 28 + 16 * len(pairs)
    tables, texts = [b"", b""], b""
    for side in (0, 1):
        for pair in pairs:
            tables[side] += struct.pack("<2I", len(pair[side]), at + len(texts))
            texts += pair[side] + b"\x00"
    header = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    return header + b"".join(tables) + texts


def _parquet() -> bytes:
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": ["one", "two", None], "n": [1, 2, 3]}), out)
    return out.getvalue()


def _raw(**settings: object) -> Callable[[Path], None]:
    """Of `fusedlm preprocess`, where every bad row says its place and no row is an error."""

    def read(path: Path) -> None:
        for row in read_rows([path], ReadSettings(**settings)):
            if path.name not in row.file:
                raise Broken(f"a row of {path.name} says that it is of {row.file!r}")

    return read


def _writable(read: Callable[[Path], object]) -> Callable[[Path], None]:
    """What is read is trained on: it must be text that UTF-8 can write."""

    def checked(path: Path) -> None:
        try:
            json.dumps(read(path), ensure_ascii=False, default=vars).encode()
        except UnicodeEncodeError as error:
            raise Broken(f"took a text that is no Unicode: {error}") from error

    return checked


def _labelled(path: Path) -> object:
    data, _ = read_labelled(path)
    data.split(0.5, "salt")
    if len(set(data.labels)) > 1:
        label_names(data.labels)
    return data


def _numbered(path: Path) -> None:
    read_labelled(path, Columns(text="0", label="1"))


def _tagged(path: Path) -> object:
    data = read_tagged(path)
    data.split(0.5, "salt")
    if any(tag != "O" for row in data.tags for tag in row):
        tag_names(data.tags)
    return data


def _parallel(path: Path) -> object:
    return prepare(read_parallel([path]), accelerators=True)


def _two_files(path: Path) -> object:
    return prepare(read_parallel([path, path.parent / "target.txt"]))


def _predictions(path: Path) -> None:
    rows, _ = _read(path, "label", "prediction", "group")
    for _, prediction, place, _ in rows:
        _class_of(prediction, place, "yes", None)


def _cases() -> list[Case]:
    lines, json_lines = (
        mostly(damage_lines, damage_bytes, 0.6),
        mostly(damage_json_lines, damage_bytes, 0.85),
    )
    tree, bytes_ = mostly(damage_json, damage_bytes, 0.85), damage_bytes

    def case(
        file: str, valid: bytes, damage: Mutation, read: Callable, name: str = "", **more
    ) -> Case:
        return Case(name or file.replace(".", "-"), file, valid, damage, _writable(read), **more)

    skipped = Skipped
    return [
        case("corpus.txt", TEXT, lines, load_corpus),
        case("labelled.csv", CSV, lines, _labelled),
        case("labelled.tsv", TSV, lines, _labelled),
        case("numbered.csv", CSV, lines, _numbered),
        case("labelled.jsonl", JSONL, json_lines, _labelled),
        case("tagged.conll", CONLL, lines, _tagged),
        case("pairs.tsv", b"a\tb\nc d\te f\n", lines, _parallel),
        case("pairs.jsonl", PAIRS, json_lines, _parallel),
        case("pairs.po", PO, lines, _parallel),
        case("pairs.mo", _mo(), bytes_, _parallel),
        case("source.txt", TEXT, lines, _two_files, beside={"target.txt": TEXT}),
        case("chats.jsonl", CHATS, json_lines, lambda path: read_conversations(path)),
        case("chats.json", CHAT_LIST, tree, lambda path: read_conversations(path)),
        case("chats.yml", YAML, lines, lambda path: read_conversations(path)),
        case(
            "preferences.jsonl",
            PREFERENCES,
            json_lines,
            lambda path: read_preferences(str(path), skipped()),
        ),
        case("questions.json", SQUAD, tree, read_questions),
        case("questions.jsonl", QUESTIONS, json_lines, read_questions),
        case("choices.jsonl", CHOICES, json_lines, lambda path: list(read_items(path))),
        case("predictions.jsonl", PREDICTIONS, json_lines, _predictions),
        case("raw.txt", TEXT, lines, _raw(split="paragraph")),
        case("raw.jsonl", JSONL, json_lines, _raw()),
        case("raw.csv", CSV, lines, _raw(broken="replace")),
        case("raw.txt.gz", gzip.compress(TEXT, mtime=0), bytes_, _raw()),
        case("raw.parquet", _parquet(), bytes_, _raw()),
    ]


TARGET = Target("data", _cases)
