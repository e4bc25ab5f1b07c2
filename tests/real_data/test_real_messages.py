"""The messages of JupyterLab, translated from English into Chinese."""

from __future__ import annotations

import json

import pytest

from fusedlm.train import read_metrics
from tests.support.real_data import messages_folder

SMALL = (
    "--layers 1 --width 64 --heads 2 --context 64 --vocab-size 1000 --batch-tokens 1000 --steps 80"
    " --warmup 8 --lr 1e-2 --dropout 0.1 --eval-every 40 --save-every 80 --validation 0.03 --test 0.03"
    " --precision float32 --quiet"
).split()


def test_a_translator_comes_near_to_the_memory_that_it_reads(run, tmp_path):
    pytest.importorskip("sacrebleu")
    out = tmp_path / "run"
    code, stdout, err = run(
        "translate", "train", messages_folder() / "jupyterlab.mo", "--out", out, *SMALL
    )
    assert code == 0, err
    assert "pairs   2,056" in stdout and "68 left out: the source is there already" in stdout
    losses = [row["val_loss"] for row in read_metrics(out / "metrics.jsonl") if "val_loss" in row]
    assert losses[-1] < losses[0] < 5  # of ln 1000 = 6.9 at the start
    code, _, err = run("translate", "eval", out, "--beam", 1, "--quiet")
    assert code == 0, err
    scores = json.loads((out / "eval" / "scores.json").read_text(encoding="utf-8"))["all"]
    assert scores["model"]["pairs"] > 30
    assert scores["model"]["chrf"] > 0.5 * scores["memory"]["chrf"] > 10
