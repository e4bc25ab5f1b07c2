"""fusedlm preprocess as a user types it."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def reviews(tmp_path):
    rows = [
        "text,label",
        '"Great &amp; fun.<br />See it!",1',
        "Bad  film,0",
        "bad film,0",
        ",1",
        "x,y,z",
    ]
    (tmp_path / "reviews.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "reviews.csv"


def test_raw_rows_become_clean_ones_and_the_summary_says_how(run, reviews, tmp_path):
    out = tmp_path / "out" / "clean.jsonl"
    code, stdout, err = run("preprocess", reviews, "--out", out)
    assert code == 0, err
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"text": "Great & fun.\nSee it!", "label": "1"}, {"text": "Bad film", "label": "0"},
    ]  # fmt: skip
    for expected in ("read    5 rows", "1 wrong number of fields (the first:", "reviews.csv, line 6",
                     "html: 1 changed", "duplicates: 1 dropped", "kept    2 documents"):  # fmt: skip
        assert expected in stdout
    report = json.loads((out.parent / "clean.report.json").read_text())
    assert report["rows_kept"] == 2 and report["settings"]["duplicates"] == "exact"
    assert (out.parent / "clean.png").read_bytes().startswith(b"\x89PNG")


def test_options_come_from_a_file_too(run, reviews, tmp_path):
    (tmp_path / "options.yaml").write_text(
        "duplicates: keep\nlower: true\nas: sentences\nhtml: false\n"
    )
    out = tmp_path / "clean.txt"
    code, stdout, err = run(
        "preprocess",
        reviews,
        "--out",
        out,
        "--config",
        tmp_path / "options.yaml",
        "--html",
        "--quiet",
    )
    assert (code, stdout) == (0, ""), err
    assert out.read_text() == "great & fun.\nsee it!\n\nbad film\n\nbad film\n"


def test_strict_and_wrong_options_end_with_one_line(run, reviews, tmp_path):
    out = tmp_path / "clean.txt"
    code, _, err = run("preprocess", reviews, "--out", out, "--strict", "--quiet")
    assert code == 1 and err == f"error: {reviews}, line 5: no text\n"
    code, _, err = run("preprocess", reviews, "--out", out, "--mask", "email,name")
    assert code == 1 and "mask is 'name', expected one of email" in err
    code, _, err = run("preprocess", tmp_path / "no.csv", "--out", out)
    assert code == 1 and "no.csv does not exist" in err
    assert not out.exists()


def test_what_it_writes_trains_a_model(run, tmp_path):
    (tmp_path / "raw.txt").write_text("".join(f"<p>line {i} of the fox</p>\n" for i in range(300)))
    clean = tmp_path / "clean" / "fox.txt"
    assert run("preprocess", tmp_path / "raw.txt", "--out", clean, "--quiet")[0] == 0
    tiny = "--layers 1 --width 32 --heads 2 --context 32 --tokenizer chars --steps 2 --warmup 1 --quiet"
    code, _, err = run("train", clean, "--out", tmp_path / "run", *tiny.split())
    assert code == 0, err
