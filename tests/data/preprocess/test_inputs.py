from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from fusedlm.data.preprocess import ReadSettings, read_rows
from fusedlm.data.preprocess.inputs import find_files
from fusedlm.data.preprocess.rows import Bad, Row


def read(*files: Path, **settings) -> list[Row | Bad]:
    return list(read_rows(files, ReadSettings(**settings)))


def texts(items: list[Row | Bad]) -> list[str]:
    assert all(isinstance(item, Row) for item in items), items
    return [item.text for item in items]


def bad(items: list[Row | Bad]) -> list[tuple[int, str]]:
    return [(item.line, item.kind) for item in items if isinstance(item, Bad)]


def test_a_text_is_split_into_lines_paragraphs_or_by_a_separator(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\r\nthree\r\n \r\n%\r\nfour")
    assert texts(read(file)) == ["one", "two", "three", "%", "four"]
    assert [row.line for row in read(file)] == [1, 3, 4, 6, 7]
    assert texts(read(file, split="paragraph")) == ["one", "two\nthree", "%\nfour"]
    assert texts(read(file, separator="%")) == ["one\n\ntwo\nthree\n ", "four"]
    assert texts(read(file, split="file")) == ["one\n\ntwo\nthree\n \n%\nfour"]


def test_rows_keep_their_fields_and_say_where_they_are(tmp_path):
    (tmp_path / "a.csv").write_text('id,text,label\n1,"two\nlines, ""q""",pos\n2,b,neg\n')
    rows = read(tmp_path / "a.csv")
    assert texts(rows) == ['two\nlines, "q"', "b"]
    assert [(row.line, row.fields["label"]) for row in rows] == [(2, "pos"), (4, "neg")]
    (tmp_path / "a.tsv").write_text("text\tx\na\t1\n")
    (tmp_path / "a.jsonl").write_text('{"x": [1], "text": "b"}\n\n{"text": "c"}\n')
    assert texts(read(tmp_path / "a.tsv", tmp_path / "a.jsonl")) == ["a", "b", "c"]
    (tmp_path / "semicolon.csv").write_text("body;n\na,b;1\n")
    assert texts(read(tmp_path / "semicolon.csv", field="body", delimiter=";")) == ["a,b"]


def test_parquet_is_read_in_batches(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"text": [f"row {i}" for i in range(300)] + [None], "n": range(301)})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    items = read(tmp_path / "a.parquet")
    assert texts(items[:300])[::100] == ["row 0", "row 100", "row 200"]
    assert items[299].fields["n"] == 299 and bad(items) == [(301, "empty")]
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    assert bad(read(tmp_path / "b.parquet")) == [(0, "unreadable file")]
    assert bad(read(tmp_path / "a.parquet", field="body")) == [(0, "missing field")]


def test_a_folder_is_read_in_the_order_of_names_and_packed_files_too(tmp_path):
    (tmp_path / "pos").mkdir()
    (tmp_path / "neg").mkdir()
    (tmp_path / "pos" / "1.txt.gz").write_bytes(gzip.compress(b"good"))
    (tmp_path / "neg" / "2.txt").write_text("bad")
    (tmp_path / "neg" / "1.jsonl").write_text('{"text": "worse"}')
    (tmp_path / "neg" / "x.png").write_bytes(b"\x89PNG")
    (tmp_path / "neg" / ".hidden.txt").write_text("no")
    items = read(*find_files([tmp_path]), folder_label=True)
    assert [(row.text, row.fields["label"]) for row in items] == [
        ("worse", "neg"), ("bad", "neg"), ("good", "pos"),
    ]  # fmt: skip


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt does not exist"):
        find_files([tmp_path / "nothing.txt"])
    with pytest.raises(FileNotFoundError, match=r"holds no file that ends in \.txt, \.md"):
        find_files([tmp_path])


def test_encodings_are_told_by_a_mark_or_by_the_user(tmp_path):
    (tmp_path / "a.txt").write_bytes("你好\nnaïve".encode("utf-16"))
    assert texts(read(tmp_path / "a.txt")) == ["你好", "naïve"]
    (tmp_path / "b.txt").write_bytes("你好".encode("gb18030"))
    assert texts(read(tmp_path / "b.txt", encoding="gb18030")) == ["你好"]


def test_broken_bytes_are_dropped_or_replaced(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\nna\xefve\nalso fine\n\xe4\xbd\n")
    items = read(tmp_path / "a.txt")
    assert [i.text for i in items if isinstance(i, Row)] == ["fine", "also fine"]
    assert bad(items) == [(2, "broken encoding"), (4, "broken encoding")]
    replaced = texts(read(tmp_path / "a.txt", broken="replace"))
    assert replaced == ["fine", "na\ufffdve", "also fine", "\ufffd"]
    (tmp_path / "a.jsonl").write_text('{"text": "half \\ud83d"}\n{"text": "whole \\ud83d\\ude00"}')
    assert bad(read(tmp_path / "a.jsonl")) == [(1, "broken encoding")]


def test_bad_rows_of_json_lines_are_told_apart(tmp_path):
    lines = ['{"text": "ok"}', "{", "[1]", '{"body": "x"}', '{"text": 3}', '{"text": null}',
             '{"text": " "}', "[" * 10**5, json.dumps({"text": "x" * 200}), '{"text": "ok"}']  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    items = read(tmp_path / "a.jsonl", max_chars=100)
    assert bad(items) == [
        (2, "not JSON"), (3, "not an object"), (4, "missing field"), (5, "not text"), (6, "empty"),
        (7, "empty"), (8, "too long"), (9, "too long"),
    ]  # fmt: skip
    assert items[0].text == items[-1].text == "ok"
    assert "has no field 'text', there are: body" in str(items[3])
    assert bad(read(tmp_path / "a.jsonl"))[6] == (
        8,
        "not JSON",
    )  # nested deeper than any parser goes


def test_bad_rows_of_csv_are_told_apart_and_reading_goes_on(tmp_path):
    rows = ["text,label", "ok,1", "a,b,c", "only", '"x"y,1', ",1", "z" * 500 + ",1", "fine,2"]
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    items = read(tmp_path / "a.csv", max_chars=100)
    assert bad(items) == [
        (3, "wrong number of fields"), (4, "wrong number of fields"), (5, "not CSV"), (6, "empty"),
        (7, "too long"),
    ]  # fmt: skip
    assert items[0].text == "ok" and items[-1].text == "fine"


def test_quotes_in_a_tsv_are_text(tmp_path):
    rows = ["text\tlabel", 'say "hi"\t1', '"open\t2', '"a" b\t3']
    (tmp_path / "a.tsv").write_text("\n".join(rows) + "\n")
    assert texts(read(tmp_path / "a.tsv")) == ['say "hi"', '"open', '"a" b']


def test_an_open_quote_costs_a_bounded_part_of_the_file(tmp_path):
    rows = ["text,label", '"open,1', *(f"row {i},1" for i in range(1000))]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    items = read(tmp_path / "a.csv", max_chars=200)
    assert items[0].kind == "too long" and sum(isinstance(i, Row) for i in items) > 950


def test_a_csv_without_the_column_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("id,body\n1,x\n")
    (item,) = read(tmp_path / "a.csv")
    assert "expected a header with 'text'" in item.what and "id, body" in item.what


def test_a_packed_file_that_was_cut_short_gives_what_is_there(tmp_path):
    whole = gzip.compress("".join(f"line {i * 7919 % 1000}\n" for i in range(20_000)).encode())
    (tmp_path / "a.txt.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.txt").write_text("after")
    items = read(tmp_path / "a.txt.gz", tmp_path / "b.txt")
    assert [item.kind for item in items if isinstance(item, Bad)] == ["unreadable file"]
    assert len(items) > 500 and items[-1].text == "after"
    (tmp_path / "c.txt.gz").write_text("not packed at all")
    assert bad(read(tmp_path / "c.txt.gz")) == [(0, "unreadable file")]


def test_progress_adds_up_to_the_bytes_of_the_files(tmp_path):
    (tmp_path / "a.txt").write_text("line\n" * 5000)
    (tmp_path / "b.csv").write_text("text\n" + "x\n" * 100)
    files = [tmp_path / "a.txt", tmp_path / "b.csv"]
    told: list[int] = []
    list(read_rows(files, ReadSettings(), told.append))
    assert sum(told) == sum(file.stat().st_size for file in files) and len(told) > 10


def test_names_that_are_not_utf_8_can_be_reported(tmp_path):
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/na\xefve.jsonl"))
    try:
        file.write_bytes(b'{"te\xffxt": 1}\n{"text": "ok"}')
    except OSError:
        pytest.skip("this file system has names in UTF-8 alone")
    items = read(file)
    assert all(item.file.encode().endswith(rb"na\udcefve.jsonl") for item in items)
    assert items[0].what.encode() and items[0].kind == "missing field"
