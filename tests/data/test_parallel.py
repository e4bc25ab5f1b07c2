"""Parallel texts: what is read, what is refused, and how pairs are cleaned and split."""

from __future__ import annotations

import gettext
import struct
from pathlib import Path

import pytest

from fusedlm.data import clean, prepare, read_parallel, split_by_source
from fusedlm.data.parallel import Parallel, source_key, write_jsonl
from fusedlm.errors import CorruptFileError

PAIRS = [("Open", "Öffnen"), ("Save as…", "Speichern unter …")]
PO = r"""
# made for this test
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\n"

#: a.c:1
msgctxt "menu"
msgid "_Open"
msgstr "Ö_ffnen"

#, c-format
msgid "one file"
msgid_plural "%d files"
msgstr[0] "eine Datei"
msgstr[1] "%d Dateien"

#, fuzzy
msgid "unsure"
msgstr "unsicher"

msgid "not yet"
msgstr ""

msgid ""
"first line\n"
"\"second\""
msgstr "erste Zeile\n\"zweite\""

#~ msgid "gone"
#~ msgstr "weg"
"""


def write_mo(
    file: Path, messages: dict[str, str], charset: str = "utf-8", order: str = "<"
) -> None:
    """By the manual of gettext: a header, two tables of (length, offset), and the texts."""
    header = (
        f"Content-Type: text/plain; charset={charset}\nPlural-Forms: nplurals=2; plural=n != 1;\n"
    )
    entries = sorted({"": header, **messages}.items())
    texts = [[side.encode(charset) for side in pair] for pair in entries]
    at = 28 + 16 * len(texts)
    tables, body = [b"", b""], b""
    for side in (0, 1):
        for pair in texts:
            tables[side] += struct.pack(order + "2I", len(pair[side]), at + len(body))
            body += pair[side] + b"\0"
    head = struct.pack(order + "7I", 0x950412DE, 0, len(texts), 28, 28 + 8 * len(texts), 0, 0)
    file.write_bytes(head + tables[0] + tables[1] + body)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1"])
def test_compiled_catalogues_are_read_as_gettext_reads_them(tmp_path, order, charset):
    file = tmp_path / "a.mo"
    messages = {"menu\x04Open": "Öffnen", "Close": "Schließen", "a\x00%d as": "ein a\x00%d a"}
    write_mo(file, messages, charset, order)
    with open(file, "rb") as handle:
        known = gettext.GNUTranslations(handle)
    found = read_parallel([file]).pairs
    assert dict(found) == {
        "Open": known.pgettext("menu", "Open"), "Close": known.gettext("Close"),
        "a": known.ngettext("a", "%d as", 1), "%d as": known.ngettext("a", "%d as", 2),
    }  # fmt: skip


def test_text_catalogues_without_what_is_unsure_or_missing(tmp_path):
    (tmp_path / "a.po").write_text(PO, encoding="utf-8")
    found = read_parallel([tmp_path / "a.po"])
    assert found.pairs == [
        ("_Open", "Ö_ffnen"), ("one file", "eine Datei"), ("%d files", "%d Dateien"),
        ('first line\n"second"', 'erste Zeile\n"zweite"'),
    ]  # fmt: skip
    assert found.skipped.counts == {"fuzzy": 1, "untranslated": 1}
    assert found.skipped.first["fuzzy"] == "a.po, message 4"


def test_a_folder_gives_all_catalogues_in_it(tmp_path):
    (tmp_path / "b").mkdir()
    write_mo(tmp_path / "b" / "x.mo", {"One": "Eins"})
    write_mo(tmp_path / "a.mo", {"Two": "Zwei"})
    (tmp_path / "readme.txt").write_text("no catalogue")
    assert read_parallel([tmp_path]).pairs == [("Two", "Zwei"), ("One", "Eins")]
    with pytest.raises(FileNotFoundError, match=r"holds no \.mo or \.po file"):
        read_parallel([_made(tmp_path / "empty")])


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begins with , expected a gettext .mo file"),
        (b"PK\3\4 a zip", "begins with 504b0304"),
        (struct.pack("<7I", 0x950412DE, 0, 9, 28, 100, 0, 0), "ends before their table does"),
        (
            struct.pack("<7I", 0x950412DE, 0, 1, 28, 36, 0, 0) + struct.pack("<4I", 5, 999, 1, 2),
            "message 0 lies beyond the end: cut short",
        ),
    ],
)
def test_a_damaged_catalogue_is_named(tmp_path, data, message):
    (tmp_path / "a.mo").write_bytes(data)
    with pytest.raises(CorruptFileError, match=rf"a\.mo: .*{message}"):
        read_parallel([tmp_path / "a.mo"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('msgid "a\nmsgstr "b"', "line 1: the quotes do not close"),
        ('msgid "a"\nnonsense', "line 2 is 'nonsense', expected msgid"),
        ('"Content-Type: text/plain; charset=klingon\\n"', "unknown charset 'klingon'"),
        ('"Content-Type: text/plain; charset=hex\\n"', "unknown charset 'hex'"),
        ('"Content-Type: text/plain; charset=undefined\\n"', "unknown charset 'undefined'"),
        ('"Content-Type: text/plain; charset=punycode\\n"\n# é', "is not punycode"),
        ('msgid "a"\nmsgstr "\\303"', "line 2: an escape gives bytes that are not utf-8"),
    ],
)
def test_a_damaged_text_catalogue_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "a.po").write_text(text, encoding="utf-8")
    with pytest.raises(CorruptFileError, match=message):
        read_parallel([tmp_path / "a.po"])


@pytest.mark.parametrize("charset", ["hex", "punycode"])
def test_a_compiled_catalogue_in_what_is_no_charset_is_named(tmp_path, charset):
    write_mo(tmp_path / "a.mo", {"a": "é"}, "iso-8859-1")
    data = (tmp_path / "a.mo").read_bytes()
    (tmp_path / "a.mo").write_bytes(data.replace(b"iso-8859-1", charset.ljust(10).encode()))
    with pytest.raises(CorruptFileError, match=r"a\.mo: .*(unknown charset 'hex'|is not punycode)"):
        read_parallel([tmp_path / "a.mo"])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_line_ends_end_the_lines_of_a_text_catalogue(tmp_path, end):
    text = "one\u2028two\x85three\x0cfour"
    (tmp_path / "a.po").write_bytes(f'msgid "a"{end}msgstr "{text}"{end}'.encode())
    assert read_parallel([tmp_path / "a.po"]).pairs == [("a", text)]


def test_escapes_of_bytes_are_read_as_gettext_reads_them(tmp_path):
    (tmp_path / "a.po").write_text(r'''msgid "a"
msgstr "\x41\101\303\266 \1012 \\101 \x4z"''')
    assert read_parallel([tmp_path / "a.po"]).pairs == [("a", "AAö A2 \\101 \x04z")]


def test_two_text_files_are_read_line_by_line(tmp_path):
    a, b = tmp_path / "a.en", tmp_path / "a.de"
    a.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(s for s, _ in PAIRS).encode())
    b.write_bytes("\n".join(t for _, t in PAIRS).encode() + b"\n")
    assert read_parallel([a, b]).pairs == PAIRS


def test_files_of_unequal_lengths_are_refused_with_both_counts(tmp_path):
    (tmp_path / "a").write_text("one\ntwo\nthree\n")
    (tmp_path / "b").write_text("eins\nzwei")
    with pytest.raises(ValueError, match=r"/a has 3 lines and .*/b has 2: line n of one"):
        read_parallel([tmp_path / "a", tmp_path / "b"])


def test_broken_lines_are_skipped_on_both_sides_and_counted(tmp_path):
    good = [b"line %d" % i for i in range(30)]
    (tmp_path / "a").write_bytes(b"\n".join([*good[:5], b"\xff\xfe\xfa", *good[5:]]))
    (tmp_path / "b").write_bytes(b"\n".join([*good[:5], b"not read", *good[5:]]))
    found = read_parallel([tmp_path / "a", tmp_path / "b"])
    assert found.pairs == [(line.decode(), line.decode()) for line in good]
    assert found.skipped.counts == {"not UTF-8": 1}
    assert found.skipped.first == {"not UTF-8": "a:6"}
    assert found.place(4) == "a:5" and found.place(5) == "a:7"


def test_a_file_of_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.tsv").write_bytes("Öffnen\tä\nÄrger\tü\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.tsv: 2 of 2 lines are not UTF-8; convert"):
        read_parallel([tmp_path / "a.tsv"])
    (tmp_path / "b.tsv").write_bytes("a\tb\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"b\.tsv is UTF-16"):
        read_parallel([tmp_path / "b.tsv"])


def test_tables_and_json_lines(tmp_path):
    (tmp_path / "a.tsv").write_text("Open\tÖffnen\tcomment\nno tab\nSave as…\tSpeichern unter …\n")
    found = read_parallel([tmp_path / "a.tsv"])
    assert found.pairs == PAIRS and found.skipped.counts == {"without a tab": 1}
    assert found.skipped.first == {"without a tab": "a.tsv:2"}
    write_jsonl(tmp_path / "a.jsonl", PAIRS)
    assert read_parallel([tmp_path / "a.jsonl"]).pairs == PAIRS
    (tmp_path / "b.jsonl").write_text('{"translation": {"en": "a", "de": "b"}}\n\n')
    assert read_parallel([tmp_path / "b.jsonl"], source="en", target="de").pairs == [("a", "b")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "one column\n", "line 1 has no tab"),
        ("a.jsonl", "{]", "line 1 is not JSON"),
        ("a.jsonl", '{"source": "a"}', "line 1: expected an object with texts 'source' and 'target'"),
        ("a.jsonl", '{"source": 1, "target": "b"}', "line 1: expected an object"),
        ("a.csv", "a,b", r"a\.csv: expected \.tsv, \.jsonl"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_parallel([tmp_path / name])


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        read_parallel([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="3 files are given"):
        read_parallel([tmp_path, tmp_path, tmp_path])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("_File", "File"), ("Attri_butes:", "Attributes:"), ("~Save", "Save"), ("E&xit", "Exit"),
        ("&New…", "New…"), ("文件(&F)", "文件"), ("Zoom (_Z)", "Zoom"), ("Q&A", "Q&A"),
        ("a &amp; b", "a &amp; b"), ("Cut && Paste", "Cut && Paste"), ("~/x", "~/x"),
        ("file_a and file_b", "file_a and file_b"), ("my.file_name", "my.file_name"),
        ("%1 of ~50", "%1 of ~50"), ("_", "_"),
    ],
)  # fmt: skip
def test_marks_of_keys_are_taken_away_and_nothing_else(text, expected):
    assert clean(text, accelerators=True) == expected and clean(text) == text


def test_cleaning_composes_letters_and_joins_lines():
    assert clean("  A\u0308rger\n im\tHaus ") == "Ärger im Haus"


def test_pairs_are_cleaned_and_each_source_kept_once_with_its_most_frequent_translation():
    found = Parallel(
        [("_Open", "Auf"), ("Open", "Öffnen"), ("Open ", "Öffnen"), ("x", " "), ("y" * 5000, "y")]
    )
    ready = prepare(found, accelerators=True)
    assert ready.pairs == [("Open", "Öffnen")]
    assert ready.skipped.counts == {
        "the source is there already": 2, "a side is empty": 1, "longer than 4000 characters": 1,
    }  # fmt: skip
    assert ready.skipped.first == {
        "the source is there already": "pair 2", "a side is empty": "pair 4",
        "longer than 4000 characters": "pair 5",
    }  # fmt: skip
    assert [ready.place(i) for i in range(1)] == ["pair 1"]


def test_a_source_is_always_in_the_same_part():
    pairs = [(f"message {i}", str(i)) for i in range(2000)]
    train, (validation, test) = split_by_source(pairs, (0.1, 0.2))
    assert len(train) + len(validation) + len(test) == 2000
    assert 150 < len(validation) < 250 and 340 < len(test) < 460
    others = [(f"Message {i}: ", "") for i in range(0, 2000, 3)]
    moved = split_by_source(others, (0.1, 0.2))[1][1]
    assert {source_key(s) for s, _ in moved} <= {source_key(s) for s, _ in test}
    with pytest.raises(ValueError, match="expected a sum below 1"):
        split_by_source(pairs, (0.5, 0.5))
