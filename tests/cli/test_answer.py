"""fusedlm answer as a user types it, on a tiny task."""

from __future__ import annotations

import json

import pytest
import torch

from fusedlm.models import save
from tests.support.kinds import kind_encoder, kind_questions, kind_tokenizer

SMALL = "--epochs 20 --batch 32 --lr 3e-3 --precision float32 --quiet".split()


def write_squad(path, questions):
    paragraphs = [
        {
            "context": q.context,
            "qas": [{
                "id": q.id, "question": q.question, "is_impossible": not q.answers,
                "answers": [{"text": t, "answer_start": s} for t, s in q.answers],
            }],
        }
        for q in questions
    ]  # fmt: skip
    path.write_text(json.dumps({"version": "v2.0", "data": [{"paragraphs": paragraphs}]}))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answer")
    write_squad(folder / "train.json", kind_questions(800, 0))
    write_squad(folder / "dev.json", kind_questions(60, 1))
    torch.manual_seed(0)
    tokenizer = kind_tokenizer()
    save(folder / "base", kind_encoder(tokenizer), tokenizer)
    return folder


@pytest.fixture
def trained(run, files):
    out = files / "run"
    if not out.exists():
        options = ["--validation-data", files / "dev.json", "--from", files / "base", "--out", out]
        code, stdout, err = run("answer", "train", files / "train.json", *options, *SMALL)
        assert code == 0, err
        for expected in (
            "800 to train (267 without an answer)",
            "epoch 20/20",
            "F1",
            "answer eval",
        ):
            assert expected in stdout
    return out


def test_a_trained_run_answers_questions_about_a_text_and_says_where_there_is_no_answer(
    run, trained
):
    text = ["--text", "we saw a red oslo"]
    code, out, err = run("answer", "run", trained, "which city ?", "which number ?", *text)
    assert code == 0, err
    assert out.splitlines()[1].startswith("oslo (") and "we saw a red [oslo]" in out
    assert out.splitlines()[3].startswith("no answer (")
    code, out, _ = run("answer", "run", trained, "which city ?", *text, "--json", "--top", 2)
    found = json.loads(out)
    assert found["answer"] == "oslo" and found["answers"][0]["start"] == 13
    assert len(found["answers"]) == 2 and 0 <= found["no_answer_probability"] <= 1
    code, out, _ = run("answer", "run", trained, "which city ?", *text, "--threshold", "-1e9")
    assert out.startswith("no answer")


def test_questions_left_out_of_the_validation_data_are_told_too(run, files, tmp_path):
    rows = [
        {
            "question": q.question,
            "context": q.context,
            "answers": [{"text": t} for t, _ in q.answers],
        }
        for q in kind_questions(12, 2)
    ]
    lines = [*rows, {**rows[0], "answers": [{"text": "nowhere"}]}]
    held = tmp_path / "held.jsonl"
    held.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, stdout, err = run(
        "answer", "train", files / "dev.json", "--validation-data", held, "--from", files / "base",
        "--out", tmp_path / "run", "--epochs", 1, "--quiet",
    )  # fmt: skip
    assert code == 0, err
    assert (
        f"1 left out: its answer is not where it should be in the text (the first: {held}:13)"
        in (stdout.splitlines())
    )


def test_a_text_file_longer_than_a_window_is_read_to_its_end(run, trained, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("they went by on foot " * 40 + "and then saw kyiv there")
    code, out, err = run("answer", "run", trained, "which city ?", "--text-file", file)
    assert code == 0 and out.startswith("kyiv ("), err
    assert run("answer", "run", trained, "which city ?", "--text-file", "-", stdin="oslo")[0] == 0


def test_eval_writes_scores_answers_and_a_plot(run, files, trained, tmp_path):
    out = tmp_path / "report"
    code, stdout, err = run("answer", "eval", trained, files / "dev.json", "--out", out, "--quiet")
    assert code == 0, err
    report = json.loads((out / "report.json").read_text())
    assert report["f1"] > 90 and report["questions"] == 60 and "unanswerable" in stdout
    best = json.loads((trained / "best" / "training.json").read_text())["best"]
    assert report["threshold"] == best["val_threshold"]
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 60 and set(answers[0]) == {"id", "answer", "margin"}
    assert (out / "threshold.png").read_bytes().startswith(b"\x89PNG")
    code, stdout, _ = run("answer", "eval", trained, files / "dev.json", "--json")
    assert json.loads(stdout)["f1"] == report["f1"]


def test_a_run_goes_on_with_its_settings_alone(run, files, trained):
    code, _, err = run("answer", "train", "--resume", "--out", trained, "--lr", 1)
    assert code == 1 and "--lr cannot be given with --resume" in err
    code, out, err = run("answer", "train", "--resume", "--out", trained, "--epochs", 21, "--quiet")
    assert code == 0 and "epoch 21/21" in out and "epoch 20/21" not in out, err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train"], "data is missing"),
        (["train", "{}/train.json"], "--from is missing"),
        (["train", "{}/none.json", "--from", "{}/base", "--out", "{}/new"], "none.json is missing"),
        (
            ["train", "{}/train.json", "--from", "{}/base", "--out", "{}/run"],
            "holds a training run already",
        ),
        (["train", "--resume", "--out", "{}/none"], "holds no training run to resume"),
        (["run", "{}/base", "?", "--text", "x"], "answers no questions"),
        (["run", "{}/run", "?"], "give --text or --text-file"),
        (["run", "{}/run", " ", "--text", "x"], "a question is empty"),
        (["run", "{}/run", "?", "--text", " "], "the text is empty"),
        (["run", "{}/run", "?", "--text-file", "{}/none"], "none is missing"),
        (["eval", "{}/run", "{}/run/run.json"], "expected an object with a list 'data'"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_is_wrong(run, files, trained, arguments, expected):
    code, _, err = run("answer", *(str(a).format(files) for a in arguments))
    assert code == 1 and expected in err and len(err.strip().splitlines()) == 1


def test_a_model_that_answers_is_no_classifier(run, trained):
    code, _, err = run("classify", "predict", trained, "some text")
    assert code == 1 and "answers questions; see `fusedlm answer`" in err
