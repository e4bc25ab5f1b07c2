"""fusedlm translate as a user types it."""

from __future__ import annotations

import json

import pytest

from tests.train.test_translation import PAIRS

SMALL = (
    "--layers 1 --width 32 --heads 2 --context 64 --vocab-size 300 --batch-tokens 300 --warmup 2"
    " --eval-every 3 --save-every 3 --precision float32 --quiet --validation 0.1 --test 0.1"
).split()


@pytest.fixture
def texts(tmp_path):
    for side, name in enumerate(("a.en", "a.de")):
        (tmp_path / name).write_text("".join(pair[side] + "\n" for pair in PAIRS), encoding="utf-8")
    return tmp_path / "a.en", tmp_path / "a.de"


@pytest.fixture
def trained(run, texts, tmp_path):
    code, out, err = run(
        "translate", "train", *texts, "--out", tmp_path / "r", "--steps", 6, *SMALL
    )
    assert code == 0, err
    assert "pairs   100" in out and "Try next" in out
    return tmp_path / "r"


def test_train_writes_a_run_that_resumes_to_the_same_weights(run, texts, trained, tmp_path):
    parts = [
        (trained / "data" / f"{name}.jsonl").read_text().count("\n")
        for name in ("train", "validation", "test")
    ]
    assert sum(parts) == 100 and min(parts) > 0
    other = tmp_path / "s"
    assert run("translate", "train", *texts, "--out", other, "--steps", 3, *SMALL)[0] == 0
    code, _, err = run("translate", "train", "--resume", "--out", other, "--steps", 6, "--quiet")
    assert code == 0, err
    # The rate falls towards the last step, which was another one at first: not the weights, the steps.
    assert json.loads((other / "last" / "state.json").read_text())["step"] == 6
    code, _, err = run("translate", "train", *texts, "--out", trained, *SMALL)
    assert code == 1 and "holds a training run already" in err
    code, _, err = run("translate", "train", "--resume", "--out", trained, "--width", 64)
    assert code == 1 and "--width cannot be given with --resume" in err


def test_run_translates_an_argument_a_file_and_stdin_alike(run, trained, tmp_path):
    lines = ["one and two", "", "seven and ten"]
    (tmp_path / "in.txt").write_text("\n".join(lines))
    code, out, err = run("translate", "run", trained, "-", stdin="\n".join(lines))
    assert code == 0 and out.splitlines()[1] == "" and len(out.splitlines()) == 3, err
    assert run("translate", "run", trained, "--file", tmp_path / "in.txt")[1] == out
    assert run("translate", "run", trained, lines[0])[1].splitlines() == out.splitlines()[:1]
    to = tmp_path / "made" / "out.txt"
    run("translate", "run", trained / "best", "--file", tmp_path / "in.txt", "--out", to, "--quiet")
    assert to.read_text() == out


def test_run_leaves_what_it_cannot_translate_and_says_so(run, trained, tmp_path):
    (tmp_path / "in.txt").write_bytes(b"one\n\xff\xfe broken\n" + b"nine " * 200 + b"\n")
    code, out, err = run("translate", "run", trained, "--file", tmp_path / "in.txt")
    assert code == 0 and len(out.splitlines()) == 3
    assert out.splitlines()[2] == "nine " * 200
    assert "1 lines are not UTF-8 and are not translated: 2" in err
    assert "1 lines have more than 63 tokens and are not translated: 3" in err


def test_only_line_ends_part_lines_and_a_bad_byte_spoils_one_of_them(run, trained):
    typed = "one\u2028two\n".encode() + b"\xff\nthree\x0cfour\n"
    code, out, err = run("translate", "run", trained, "-", stdin=typed)
    assert code == 0 and out.count("\n") == 3 and out.split("\n")[1] == "", err
    assert "1 lines are not UTF-8 and are not translated: 2" in err


def test_eval_compares_with_the_memory_and_writes_everything(run, trained):
    pytest.importorskip("sacrebleu")
    code, out, err = run("translate", "eval", trained, "--beam", 2, "--show", 2, "--quiet")
    assert code == 0, err
    for word in (
        "BLEU", "chrF", "placeholders", "all (", "memory", "reference",
        "all, model against memory (95 % by paired bootstrap)", "better in",
    ):  # fmt: skip
        assert word in out
    scores = json.loads((trained / "eval" / "scores.json").read_text())
    assert scores["all"]["memory"]["chrf"] > 20 and scores["all"]["model"]["pairs"] > 0
    gain = scores["model_minus_memory"]["all"]["chrf"]
    by = scores["all"]
    assert gain["difference"] == pytest.approx(by["model"]["chrf"] - by["memory"]["chrf"])
    assert gain["low"] <= gain["difference"] <= gain["high"] and 0 <= gain["wins"] <= 1
    rows = (trained / "eval" / "translations.jsonl").read_text().splitlines()
    assert len(rows) == scores["all"]["model"]["pairs"]
    assert {"source", "reference", "model", "memory", "similarity"} == set(json.loads(rows[0]))
    assert (trained / "eval" / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_left_out_is_told_with_its_place_by_train_and_eval(run, texts, trained, tmp_path):
    pytest.importorskip("sacrebleu")
    pairs = [(s, t) for s, t in PAIRS[:40]]
    pairs[3:3] = [("", "leer"), ("nine " * 200, "neun"), pairs[0]]
    file = tmp_path / "pairs.tsv"
    file.write_bytes("".join(f"{s}\t{t}\n" for s, t in pairs).encode() + b"\xff\tx\n")
    code, out, err = run("translate", "train", file, "--out", tmp_path / "x", "--steps", 1, *SMALL)
    assert code == 0, err
    expected = [
        "1 left out: not UTF-8 (the first: pairs.tsv:44)",
        "1 left out: a side is empty (the first: pairs.tsv:4)",
        "1 left out: the source is there already (the first: pairs.tsv:6)",
    ]
    assert [line.strip() for line in out.splitlines() if "left out: " in line][:3] == expected
    code, out, err = run(
        "translate", "eval", trained, file, "--memory", file, "--beam", 1, "--quiet"
    )  # fmt: skip
    assert code == 0, err
    long = "1 count as untranslated: more than 63 tokens (the first: pairs.tsv:5)"
    assert out.splitlines()[:4] == [*expected, long]
    assert "1 left out of the memory: a side is empty (the first: pairs.tsv:4)" in err
    scores = json.loads((trained / "eval" / "scores.json").read_text())
    assert scores["left_out"] == expected and scores["untranslated"] == [long]
    assert scores["all"]["model"]["pairs"] == 41
    for command, path in (("run", tmp_path), ("eval", file)):
        code, out, err = run("translate", command, trained, file, "--out", path, "--quiet")
        assert (
            code and not out and (str(path) in err or "directory" in err) and "Traceback" not in err
        )
    # What cannot be measured is said before the first pair is translated.
    code, out, err = run("translate", "eval", trained, file, "--tokenize", "klingon", "--quiet")
    assert code == 1 and "klingon" in err and "untranslated" not in out


def test_eval_of_a_bare_model_folder_needs_data(run, trained, texts, tmp_path):
    pytest.importorskip("sacrebleu")
    (trained / "best").rename(tmp_path / "alone")
    code, _, err = run("translate", "eval", tmp_path / "alone")
    assert code == 1 and "data is missing" in err
    code, out, err = run("translate", "eval", tmp_path / "alone", *texts, "--beam", 1, "--quiet")
    assert code == 0 and "model" in out and "memory" not in out, err


def test_wrong_input_is_one_line(run, texts, trained, tmp_path):
    (tmp_path / "short").write_text("one\n")
    for arguments, message in (
        (("train",), "data is missing"),
        (("train", texts[0], tmp_path / "short", "--out", tmp_path / "x"), "has 100 lines and"),
        (("train", tmp_path / "none.tsv"), "does not exist"),
        (("train", "--resume", "--out", tmp_path / "x"), "holds no training run to resume"),
        (("run", trained), "give either a text"),
        (("run", tmp_path / "nothing", "x"), "does not exist"),
    ):
        code, _, err = run("translate", *arguments)
        assert code == 1 and err.count("\n") == 1 and message in err
    code, _, err = run("generate", trained, "x")
    assert code == 1 and "encoder-decoder" in err
