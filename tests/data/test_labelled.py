"""Readers of labelled texts: every format, what is left out and counted, and splits by hash."""

from __future__ import annotations

import json

import pytest

from fusedlm.data.labelled import Columns, Labelled, keep_known, label_names, read_labelled
from fusedlm.data.tagged import read_tagged
from tests.support.real_data import reviews_file


def written(path, content: str | bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_csv_tsv_jsonl_and_folders_give_the_same_texts(tmp_path):
    rows = [('say "hi",\nfriend', "good"), ("so\tso 我", "bad")]
    quoted = ['"say ""hi"",\nfriend"', "so\tso 我"]
    csv = "".join(f"{t},{label}\n" for t, (_, label) in zip(quoted, rows, strict=True))
    written(tmp_path / "a.csv", "\ufefftext,label\n" + csv)
    lines = [json.dumps({"text": t, "label": label, "more": [1]}) for t, label in rows]
    written(tmp_path / "a.jsonl", "\n".join(lines))
    for number, (text, label) in enumerate(rows):
        written(tmp_path / "d" / label / f"{number}.txt", text)
    for path in ("a.csv", "a.jsonl", "d"):
        data, test = read_labelled(tmp_path / path)
        assert sorted(zip(data.texts, data.labels, strict=True)) == sorted(rows) and test is None
    written(tmp_path / "b.tsv", 'label\ttext\ngood\ta "quote\nbad\tplain\n')
    assert read_labelled(tmp_path / "b.tsv")[0].texts == ['a "quote', "plain"]


def test_columns_are_chosen_by_name_by_number_and_by_value(tmp_path):
    path = written(tmp_path / "a.csv", "body,kind,source\nx,1,web\ny,0,book\nz,1,book\n")
    data, _ = read_labelled(path, Columns("body", "kind", {"source": "book"}))
    assert data.texts == ["y", "z"] and data.labels == ["0", "1"]
    path = written(tmp_path / "b.csv", "spam,buy now\nham,see you\n")
    assert read_labelled(path, Columns("1", "0"))[0].labels == ["spam", "ham"]
    with pytest.raises(ValueError, match=r"b\.csv: no column 'text'; there are spam, buy now"):
        read_labelled(path)


def test_the_folders_of_aclimdb_give_both_halves_without_the_unlabelled(tmp_path):
    for half, kind, text in (
        ("train", "pos", "fine"), ("train", "neg", "poor"), ("train", "unsup", "who knows"),
        ("test", "pos", "nice"), ("test", "neg", "poor"),
    ):  # fmt: skip
        written(tmp_path / half / kind / "0_1.txt", text)
    train, test = read_labelled(tmp_path)
    assert sorted(train.texts) == ["fine", "poor"]
    assert train.skipped.counts == {"no label": 1}
    assert test.texts == ["nice"] and test.labels == ["pos"]  # "poor" is trained on
    assert test.skipped.first == {"the text is there already": "neg/0_1.txt"}


def test_rows_that_cannot_be_used_are_counted_with_the_first_place(tmp_path):
    lines = [
        b"text,label", b"fine,1", b",1", b"  ,0", b"x,", b"fine,0", b"bad \xff bytes,1", b"a,b,c",
        b"long " + b"x" * 200_000 + b",0",
    ]  # fmt: skip
    data, _ = read_labelled(written(tmp_path / "a.csv", b"\n".join(lines)))
    assert [len(text) for text in data.texts] == [4, 200_005]
    assert data.skipped.counts == {
        "no text": 2, "no label": 1, "the text is there already": 1, "not UTF-8": 1,
        "not 2 columns as in the first line": 1,
    }  # fmt: skip
    assert data.skipped.first["no text"] == "a.csv:3"
    path = written(tmp_path / "a.jsonl", '{"text": "x", "label": 1}\n[1]\n{"te\n{"text": 3}\n')
    data, _ = read_labelled(path)
    assert data.labels == ["1"]
    assert data.skipped.counts == {"not a JSON object": 2, "'text' is no string": 1}
    assert data.skipped.lines()[0] == "2 left out: not a JSON object (the first: a.jsonl:2)"


def test_an_open_quote_costs_its_line_alone(tmp_path):
    rows = [f"text {i},{'good' if i % 2 else 'bad'}" for i in range(1000)]
    rows[10] = '"text 10,bad'
    rows[500] = '"text 500, ""said""\nin two lines",bad'
    rows[600] = '"text" 600,bad'
    rows[999] = '"text 999,good'  # up to the end of the file
    data, _ = read_labelled(written(tmp_path / "a.csv", "\n".join(["text,label", *rows])))
    assert len(data) == 997 and set(data.labels) == {"good", "bad"}
    assert data.texts[499] == 'text 500, "said"\nin two lines' and data.places[499] == "a.csv:502"
    assert data.places[500] == "a.csv:504"  # the row behind
    assert data.texts[-1] == "text 998"
    (line,) = data.skipped.lines()
    assert "3 left out: a quote opens a field and none closes it" in line and "a.csv:12)" in line
    with pytest.raises(ValueError, match=r"b\.csv: line 1 is not CSV"):
        read_labelled(written(tmp_path / "b.csv", '"text,label\nx,1\n'))
    tangled = "text,label\n" + "".join(f'{i} is 15","good\n' for i in range(100))
    with pytest.raises(
        ValueError, match=r"c\.csv: line 1\d is not CSV"
    ):  # not read again 100 times
        read_labelled(written(tmp_path / "c.csv", tangled))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.conll"])
def test_utf16_is_called_by_its_name(tmp_path, name, encoding):
    mark = "" if encoding == "utf-16" else "\ufeff"
    path = written(tmp_path / name, (mark + "text,label\nx,1\n").encode(encoding))
    with pytest.raises(ValueError, match=rf"{name} is UTF-16, expected UTF-8; convert it"):
        read_tagged(path) if name == "a.conll" else read_labelled(path)


def test_files_without_anything_to_use_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.csv does not exist"):
        read_labelled(tmp_path / "no.csv")
    with pytest.raises(ValueError, match=r"format is None, expected one of folder, csv"):
        read_labelled(written(tmp_path / "a.xyz", "x"))
    with pytest.raises(ValueError, match=r"holds no labelled text; 1 left out: no label"):
        read_labelled(written(tmp_path / "a.csv", "text,label\nx,\n"))
    with pytest.raises(ValueError, match="it is empty"):
        read_labelled(written(tmp_path / "b.csv", "text,label\n"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no folders with \.txt files"):
        read_labelled(tmp_path / "empty")


def test_a_split_follows_the_text_alone_and_has_the_share_asked_for():
    texts = [f"text number {i}" for i in range(4000)]
    data = Labelled(texts, ["a"] * 4000)
    rest, part = data.split(0.2, "test")
    assert sorted(rest.texts + part.texts) == sorted(texts)
    assert 700 < len(part) < 900  # 800 give or take four standard deviations
    _, again = Labelled(texts[::-1], ["b"] * 4000).split(0.2, "test")
    assert set(again.texts) == set(part.texts)
    _, other = rest.split(0.2, "test")
    assert not len(other)  # the same hash
    _, validation = rest.split(0.2, "validation")
    assert 500 < len(validation) < 780


def test_classes_are_ordered_and_one_alone_is_refused():
    assert label_names(["10", "9", "-1", "9"]) == ["-1", "9", "10"]
    assert label_names(["b", "a1", "b"]) == ["a1", "b"]
    with pytest.raises(ValueError, match="all texts to train on have the label 'spam'"):
        label_names(["spam", "spam"])


def test_classes_of_the_test_data_alone_are_left_out_and_counted():
    data = Labelled(["x", "y", "z"], ["a", "new", "new"])
    kept = keep_known(data, ["a", "b"], "test.csv")
    assert kept.texts == ["x"]
    assert kept.skipped.counts == {"no text to train on has the label 'new'": 2}
    with pytest.raises(ValueError, match=r"test\.csv holds no text with one of the labels c, d"):
        keep_known(data, ["c", "d"], "test.csv")


def test_imdb_is_found_in_its_package():
    reviews_file()  # or the test skips
    data, _ = read_labelled("imdb")
    assert len(data) == 24_904 and data.skipped.counts == {"the text is there already": 96}
    assert label_names(data.labels) == ["negative", "positive"]
    assert 4_800 < len(data.split(0.2, "test")[1]) < 5_200
