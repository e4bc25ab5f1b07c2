"""fusedlm tune, from files to answers."""

from __future__ import annotations

import json
import re

import pytest

from fusedlm.train import read_metrics
from tests.support.tiny import save_tiny_model

QUICK = "--epochs 2 --batch 2 --samples 1 --max-new-tokens 4 --precision float32 --quiet".split()


@pytest.fixture
def base(tmp_path):
    return save_tiny_model(tmp_path / "base", chat=False)


@pytest.fixture
def chats(tmp_path):
    rows = [{"instruction": f"say {i}", "input": "", "output": f"fox {i}"} for i in range(8)]
    lines = [*map(json.dumps, rows), "{broken", json.dumps({"instruction": "x", "output": " "})]
    (tmp_path / "chats.jsonl").write_text("\n".join(lines))
    return tmp_path / "chats.jsonl"


@pytest.mark.parametrize("lora", [[], ["--lora", 2]])
def test_tuning_learns_and_shows_answers_before_and_after(run, base, chats, tmp_path, lora):
    out = tmp_path / "run"
    code, stdout, err = run(
        "tune", chats, "--from", base, "--out", out, "--lr", 1e-2, *lora, *QUICK
    )
    assert code == 0, err
    report = json.loads((out / "answers.json").read_text())
    assert report["after"]["val_loss"] < report["before"]["val_loss"]
    assert set(report["answers"][0]) == {"messages", "expected", "before", "after"}
    assert "1 left out: a line that is not JSON" in stdout and "chats.jsonl:9" in stdout
    assert "1 left out: an empty answer" in stdout and "chats.jsonl:10" in stdout
    code, stdout, err = run("chat", out / "best", "--max-new-tokens", 2, stdin="say 1\n")
    assert code == 0, err


@pytest.mark.parametrize("kind", ["chat", "preferences"])
def test_what_the_context_is_too_small_for_is_told_with_its_line_and_never_asked(
    run, base, tmp_path, kind
):
    asked = [f"say {i}" for i in range(8)] + ["fox " * 400 + str(i) for i in range(8)]
    if kind == "chat":
        rows = [{"instruction": text, "output": "fox"} for text in asked]
    else:
        rows = [{"prompt": text, "chosen": "fox", "rejected": "dog"} for text in asked]
    file, out = tmp_path / "rows.jsonl", tmp_path / "run"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--validation", 0.5, *QUICK, "--samples", 8]
    options += ["--preferences"] if kind == "preferences" else []
    code, stdout, err = run("tune", file, "--from", base, "--out", out, *options)
    assert code == 0, err
    (line,) = [line for line in stdout.splitlines() if "left out: more than" in line]
    assert line.startswith("8 left out") and re.search(rf"\(the first: {file}:(9|1\d)\)$", line)
    report = json.loads((out / "answers.json").read_text())
    questions = [row["messages"][-1]["content"] for row in report["answers"]]
    assert questions and all(text.startswith("say") for text in questions)


def test_data_without_an_answer_is_an_error_with_the_reasons(run, base, tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n[1]\n')
    code, _, err = run("tune", file, "--from", base, "--out", tmp_path / "run")
    assert code == 1 and "no answer of the assistant" in err and "x.jsonl:1" in err


def test_a_run_is_not_overwritten(run, base, chats, tmp_path):
    (tmp_path / "run" / "last").mkdir(parents=True)
    code, _, err = run("tune", chats, "--from", base, "--out", tmp_path / "run")
    assert code == 1 and "holds a training run already" in err


def test_preferences_are_learned_and_a_run_goes_on(run, base, tmp_path):
    rows = [{"prompt": f"say {i}", "chosen": "fox", "rejected": "the dog"} for i in range(8)]
    file, out = tmp_path / "pairs.jsonl", tmp_path / "run"
    file.write_text("\n".join(map(json.dumps, rows)))
    options = ["--preferences", "--lora", 2, "--lr", 1e-2, *QUICK]
    code, stdout, err = run("tune", file, "--from", base, "--out", out, *options)
    assert code == 0, err
    report = json.loads((out / "answers.json").read_text())
    assert report["before"]["val_accuracy"] == 0.5 and report["after"]["val_margin"] > 0
    assert (out / "reference.safetensors").is_file()
    for _ in range(2):  # the run that goes on keeps the numbers of the start
        start = read_metrics(out / "metrics.jsonl")[0]
        assert start == {"step": 0, **report["before"]}
        code, stdout, err = run("tune", "--resume", "--out", out, "--quiet")
        assert code == 0 and "val_margin" in stdout, err
