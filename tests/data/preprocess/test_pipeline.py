from __future__ import annotations

import gzip
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from fusedlm.data import load_corpus
from fusedlm.data.preprocess import ReadSettings, Settings, pipeline, preprocess
from fusedlm.data.preprocess.plot import plot_report
from fusedlm.data.preprocess.steps import Steps


@pytest.fixture(autouse=True)
def plots(monkeypatch) -> list[Path]:
    """Where plots would be: drawing takes longer than everything else here."""
    paths: list[Path] = []
    monkeypatch.setattr(pipeline, "plot_report", lambda report, path: paths.append(path))
    return paths


@pytest.fixture
def raw(tmp_path) -> Path:
    """Rows that every step has something to do with."""
    lines = [
        f"Row <b>{i}</b> says: the  cat sat on mat {i % 40} &amp; {i // 9}." for i in range(500)
    ]
    lines[3] = "Mail a@b.org or 192.168.0.1"
    rows = [json.dumps({"id": i, "text": line}) for i, line in enumerate(lines)]
    rows[100] = "{"
    (tmp_path / "raw.jsonl").write_text("\n".join(rows))
    return tmp_path / "raw.jsonl"


def run(source: Path, settings: Settings, out: str = "out.jsonl") -> tuple[dict, list[dict]]:
    where = source.parent / "clean" / out
    report = preprocess([source], where, settings)
    return report, [json.loads(line) for line in where.read_text().splitlines()]


def test_rows_come_out_clean_in_order_with_their_fields(raw):
    report, rows = run(raw, Settings(mask=("email", "ip")))
    assert rows[0] == {"id": 0, "text": "Row 0 says: the cat sat on mat 0 & 0."}
    assert rows[3]["text"] == "Mail [EMAIL] or [IP]"
    assert [row["id"] for row in rows] == [i for i in range(500) if i != 100]
    assert report["rows_read"] == 500 and report["rows_kept"] == 499
    assert report["steps"]["mask"]["details"] == {"email": 1, "ip": 1}
    assert report["steps"]["html"]["changed"] == 498
    example = report["bad_rows"]["not JSON"]["examples"][0]
    assert (example["file"], example["line"]) == (str(raw), 101)


def test_the_report_shows_examples_but_no_text_where_data_is_masked(raw):
    report, _ = run(raw, Settings())
    first = report["steps"]["html"]["examples"][0]
    assert "<b>0</b>" in first["before"] and "Row 0" in first["after"] and first["line"] == 1
    preprocess([raw], raw.parent / "clean" / "m.jsonl", Settings(mask=("email", "ip")))
    written = (raw.parent / "clean" / "m.report.json").read_text()
    assert "a@b.org" not in written and "192.168" not in written


@pytest.mark.parametrize("text", ["!!!", "春 " * 2000])
def test_the_plot_is_beside_the_text_and_shows_any_statistics(tmp_path, plots, text):
    (tmp_path / "a.txt").write_text(text)
    report = preprocess([tmp_path / "a.txt"], tmp_path / "out.jsonl.gz")
    assert plots == [tmp_path / "out.png"]
    assert plot_report(report, plots[0]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("duplicates", ["exact", "near"])
def test_any_number_of_workers_gives_the_same_files(raw, duplicates):
    settings = dict(duplicates=duplicates, mask=("email",), stop_words="en", language="en")
    one, rows = run(raw, Settings(**settings), "a.jsonl")
    two, again = run(raw, Settings(**settings, workers=2), "a.jsonl")
    assert rows == again and one == two
    assert "cat" in rows[0]["text"] and "the" not in rows[0]["text"].split()


def test_of_duplicates_the_first_stays_and_the_report_says_which_it_was(tmp_path):
    (tmp_path / "a.txt").write_text("The same.\nOther\nthe  SAME.\nOther\n")
    report = preprocess([tmp_path / "a.txt"], tmp_path / "b.txt")
    assert (tmp_path / "b.txt").read_text() == "The same.\nOther\n"
    step = report["steps"]["duplicates"]
    assert step["dropped"] == 2 and step["examples"][0]["line"] == 3
    assert step["examples"][0]["repeats"]["line"] == 1
    preprocess([tmp_path / "a.txt"], tmp_path / "b.txt", Settings(duplicates="keep"))
    assert len((tmp_path / "b.txt").read_text().splitlines()) == 4


def test_a_text_file_holds_documents_by_line_or_with_an_empty_line_between(tmp_path):
    (tmp_path / "a.csv").write_text('text,l\n"one\ntwo",1\nthree,2\n')
    preprocess([tmp_path / "a.csv"], tmp_path / "b.txt")
    assert load_corpus(tmp_path / "b.txt") == "one\ntwo\n\nthree\n"
    preprocess([tmp_path / "a.csv"], tmp_path / "b.txt", Settings(one_a_line=True))
    assert (tmp_path / "b.txt").read_text() == "one two\nthree\n"


def test_sentences_become_rows_of_their_own(tmp_path):
    (tmp_path / "a.csv").write_text('label,text\npos,"Dr. Who came. He left!"\nneg,再见。好！\n')
    _, rows = run(tmp_path / "a.csv", Settings(shape="sentences"))
    assert [(row["label"], row["text"]) for row in rows] == [
        ("pos", "Dr. Who came."), ("pos", "He left!"), ("neg", "再见。"), ("neg", "好！"),
    ]  # fmt: skip


def test_words_and_stop_words_of_english(tmp_path):
    (tmp_path / "a.txt").write_text("The cat isn't on THE mat.\nof the\n")
    settings = Settings(shape="words", stop_words="en", language="en", lower=True)
    report, rows = run(tmp_path / "a.txt", settings)
    assert rows == [{"text": "cat mat .", "words": ["cat", "mat", "."]}]
    assert report["steps"]["stop words"]["details"] == {"words": 6}
    assert report["statistics"]["words"]["total"] == 2  # not the full stop
    assert report["steps"]["stop words"]["dropped"] == 1


def test_words_and_stop_words_of_chinese(tmp_path):
    pytest.importorskip("rjieba")
    (tmp_path / "a.txt").write_text("我喜欢编程，也喜欢北京的大学。\n")
    _, rows = run(tmp_path / "a.txt", Settings(shape="words", stop_words="zh"))
    assert rows[0]["text"] == "喜欢 编程 ， 喜欢 北京 大学 。"
    _, rows = run(tmp_path / "a.txt", Settings(stop_words="zh"))
    assert rows[0]["text"] == "喜欢编程，喜欢北京大学。"


def test_tags_come_with_the_words_they_belong_to(tmp_path):
    pytest.importorskip("rjieba")
    pytest.importorskip("HanTa")
    (tmp_path / "a.txt").write_text("The old clock struck twelve.\n我喜欢编程\n")
    _, rows = run(tmp_path / "a.txt", Settings(shape="tags"))
    assert rows[0]["words"] == ["The", "old", "clock", "struck", "twelve", "."]
    assert rows[0]["tags"] == ["AT0", "AJ0", "NN1", "VVD", "CRD", "PUN"]
    assert rows[1]["text"] == "我/r 喜欢/v 编程/n"


def test_languages_are_counted_and_others_dropped(tmp_path):
    pytest.importorskip("py3langid")
    (tmp_path / "a.txt").write_text(
        "The weather is very nice today in the city.\n今天天气很好，我们去公园。\n"
        "Das Wetter ist heute sehr schön, wir gehen spazieren.\n"
    )
    report, rows = run(tmp_path / "a.txt", Settings(languages=True))
    assert report["statistics"]["languages"] == {"de": 1, "en": 1, "zh": 1}
    report, rows = run(tmp_path / "a.txt", Settings(keep_languages=("en", "zh")))
    assert len(rows) == 2 and report["steps"]["language"]["details"] == {"de": 1}


def test_text_that_was_decoded_wrongly_is_mended(tmp_path):
    pytest.importorskip("ftfy")
    (tmp_path / "a.txt").write_text("I donâ€™t know\nnaïve\n")
    report, rows = run(tmp_path / "a.txt", Settings(fix_encoding=True))
    assert [row["text"] for row in rows] == ["I don’t know", "naïve"]
    assert report["steps"]["encoding"]["changed"] == 1


def test_parquet_out_keeps_types_and_what_has_none_becomes_json(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    values = [
        {"text": "a", "n": 1, "x": 1, "mixed": 1, "deep": {"a": 1}, "none": None},
        {"text": "b", "n": 2, "x": 0.5, "mixed": "s", "tags": ["p", "q"]},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, values)))
    preprocess([tmp_path / "a.jsonl"], tmp_path / "b.parquet")
    rows = parquet.read_table(tmp_path / "b.parquet").to_pylist()
    assert rows[0] == {
        "text": "a", "n": 1, "x": 1.0, "mixed": "1", "deep": '{"a": 1}', "none": None, "tags": None,
    }  # fmt: skip
    assert rows[1]["mixed"] == '"s"' and rows[1]["tags"] == ["p", "q"]
    report = preprocess([tmp_path / "b.parquet"], tmp_path / "c.jsonl.gz")
    assert report["rows_kept"] == 2
    assert b'"text": "a"' in gzip.decompress((tmp_path / "c.jsonl.gz").read_bytes())
    assert (tmp_path / "c.report.json").exists()


@pytest.mark.parametrize("large", [2**53 + 1, -(2**53) - 1, 2**63])
def test_parquet_keeps_every_digit_of_large_integers_beside_other_numbers(tmp_path, large):
    parquet = pytest.importorskip("pyarrow.parquet")
    lines = [
        {"text": "a", "x": large, "n": large},
        {"text": "b", "x": 0.5, "n": 2**53},
        {"text": "c", "x": 1, "n": 1},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    preprocess([tmp_path / "a.jsonl"], tmp_path / "b.parquet")
    rows = parquet.read_table(tmp_path / "b.parquet").to_pylist()
    assert [row["x"] for row in rows] == [str(large), "0.5", "1"]
    numbers = [large, 2**53, 1]
    assert [row["n"] for row in rows] == (numbers if large < 2**63 else [*map(str, numbers)])


@pytest.mark.parametrize("out", ["b.parquet", "b.jsonl", "b.txt"])
def test_half_a_surrogate_pair_in_another_field_does_not_end_the_run(tmp_path, out):
    if out == "b.parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / "a.jsonl").write_text('{"text": "a", "by \\udcff": "x\\ud800", "l": ["\\ud83d"]}\n')
    assert preprocess([tmp_path / "a.jsonl"], tmp_path / out)["rows_kept"] == 1
    again = preprocess([tmp_path / out], tmp_path / "c.jsonl")
    assert again["rows_kept"] == 1 and not again["bad_rows"]
    if out != "b.txt":
        assert json.loads((tmp_path / "c.jsonl").read_text())["by \ufffd"] == "x\ufffd"


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_stops_at_the_first_bad_row_and_nothing_is_written(raw, workers):
    out = raw.parent / "clean" / "out.jsonl"
    with pytest.raises(ValueError, match=r"raw\.jsonl, line 101: not JSON"):
        preprocess([raw], out, Settings(strict=True, workers=workers))
    assert not multiprocessing.active_children()
    assert list(out.parent.iterdir()) == []


def test_an_older_result_survives_a_run_that_fails(tmp_path):
    (tmp_path / "a.txt").write_text("fine\n")
    preprocess([tmp_path / "a.txt"], tmp_path / "out.txt")
    (tmp_path / "b.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="no row is left of 0, nothing is written"):
        preprocess([tmp_path / "b.txt"], tmp_path / "out.txt")
    (tmp_path / "c.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(ValueError, match=r"no row is left of 1.*1 missing field; .*line 1: has no"):
        preprocess([tmp_path / "c.jsonl"], tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text() == "fine\n"
    assert not list(tmp_path.glob(".*"))


def test_a_report_that_cannot_be_written_leaves_the_older_result(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("new\n")
    (tmp_path / "out.txt").write_text("old\n")

    def full(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(pipeline, "write_json", full)
    with pytest.raises(OSError, match="the disk is full"):
        preprocess([tmp_path / "a.txt"], tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text() == "old\n"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.txt", "out.txt"]


def test_a_picture_that_cannot_be_drawn_costs_neither_rows_nor_report(raw, monkeypatch):
    def fails(*_):
        raise RuntimeError("no such font")

    monkeypatch.setattr(pipeline, "plot_report", fails)
    with pytest.warns(UserWarning, match="out.png is not drawn: RuntimeError: no such font"):
        report, rows = run(raw, Settings())
    written = json.loads((raw.parent / "clean" / "out.report.json").read_text())
    assert written["rows_kept"] == report["rows_kept"] == len(rows) == 499


@pytest.mark.parametrize("when", [0, 1])
def test_a_file_that_goes_while_others_are_read_is_a_bad_row(tmp_path, when):
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for file in files:
        file.write_text(f"{file.name} has a line\n" * 100)
    read = []

    def progress(count):  # also told of the first row, when the file is open
        read.append(count)
        files[when].unlink(missing_ok=True)

    report = preprocess(files, tmp_path / "out.txt", Settings(duplicates="keep"), progress=progress)
    assert report["rows_kept"] == (200, 100)[when]
    assert report["bytes"] == 2 * 100 * len("a.txt has a line\n")
    bad = report["bad_rows"]
    assert not bad if when == 0 else "No such file" in bad["unreadable file"]["examples"][0]["what"]


def test_a_step_that_fails_makes_a_bad_row_of_one_row(raw, monkeypatch):
    carry_out = Steps._carry_out

    def fails_at_7(self, row):
        if row.fields["id"] == 7:
            raise RuntimeError("a bug")
        return carry_out(self, row)

    monkeypatch.setattr(Steps, "_carry_out", fails_at_7)
    report, rows = run(raw, Settings())
    assert len(rows) == 498 and report["bad_rows"]["failed"]["examples"][0]["line"] == 8
    with pytest.raises(ValueError, match=r"raw\.jsonl, line 8: .*RuntimeError: a bug"):
        run(raw, Settings(strict=True))


def test_the_output_may_not_be_read_again(raw):
    with pytest.raises(ValueError, match="is inside the folder"):
        preprocess([raw.parent], raw.parent / "clean" / "out.txt")
    with pytest.raises(ValueError, match="is one of the files that are read"):
        preprocess([raw], raw)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(shape="poem"), "as is 'poem', expected one of text, sentences, words, tags"),
        (Settings(mask=("name",)), "mask is 'name', expected one of email, iban"),
        (Settings(unicode="NFX"), "unicode is 'NFX'"),
        (Settings(similarity=2), "similarity is 2, expected 0.3 to 1"),
        (Settings(workers=0), "workers is 0, expected at least 1"),
        (Settings(ReadSettings(encoding="utf-9")), "encoding is 'utf-9'"),
        (Settings(ReadSettings(encoding="undefined")), "encoding is 'undefined'"),
        (Settings(ReadSettings(delimiter=",,")), "delimiter is ',,', expected one character"),
        (Settings(stop_words="xx"), "stop words: xx is neither a file nor one of en, zh"),
    ],
)
def test_bad_settings_are_named(raw, settings, message):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        preprocess([raw], raw.parent / "clean" / "out.txt", settings)
    assert message in str(error.value)


def test_a_bad_name_of_the_output_is_named(raw):
    with pytest.raises(ValueError, match=r"out\.doc: expected a name that ends in \.txt, \.jsonl"):
        preprocess([raw], raw.parent / "out.doc")


def test_a_missing_package_is_named_before_the_first_row(raw, monkeypatch):
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with pytest.raises(
        ValueError, match=r"rjieba: pip install 'fusedlm\[preprocess\]'.*--language en"
    ):
        run(raw, Settings(shape="words"))


# Peak memory of this process, in MB, before and after a file that is much larger than the rise.
_MEASURE = """
import resource, sys
from fusedlm.data.preprocess import ReadSettings, Settings, pipeline, preprocess

pipeline.plot_report = lambda *_: None

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

settings = Settings(ReadSettings(max_chars=20_000), duplicates="exact")
small, large, out = sys.argv[1:]
preprocess([small], out, settings)
before = peak()
report = preprocess([large], out, settings)
print(report["rows_kept"], len(report["bad_rows"]), peak() - before)
"""


@pytest.mark.parametrize("kind", ["many rows", "one endless line"])
def test_memory_does_not_grow_with_the_file(tmp_path, kind):
    small, large = tmp_path / "small.txt.gz", tmp_path / "large.txt.gz"
    words = " ".join(f"word{i}" for i in range(1500))  # 13 kB
    lines = [f"{i} {words} {i}\n" for i in range(1500)]
    small.write_bytes(gzip.compress("".join(lines[:200]).encode(), 1))
    if kind == "many rows":
        data = "".join(lines).encode()
    else:
        data = b"ok\n" + b"x" * 200_000_000 + b"\nok too\n"
    large.write_bytes(gzip.compress(data, 1))
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, small, large, tmp_path / "out.jsonl"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    kept, bad, rise = map(float, done.stdout.split())
    assert (kept, bad) == ((1500, 0) if kind == "many rows" else (2, 1))
    assert rise < 6 < len(data) / 2e6  # MB
