"""A tiny model learns which word of a kind a text holds, and when it holds none."""

from __future__ import annotations

import torch

from fusedlm.models import find_answers, load
from fusedlm.train import QuestionAnswering, TrainConfig, fit, read_metrics
from tests.support.kinds import kind_encoder, kind_questions, kind_tokenizer

CONFIG = TrainConfig(steps=300, batch=32, lr=3e-3, warmup=10, eval_every=100, save_every=100)


def task(config=CONFIG, longest=384):
    torch.manual_seed(0)
    tokenizer = kind_tokenizer()
    model = kind_encoder(tokenizer, task="span")
    train, held = kind_questions(400, 0), kind_questions(60, 1)
    return QuestionAnswering(model, tokenizer, train, held, config, longest=longest)


def test_it_finds_the_answers_and_says_where_there_is_none(tmp_path):
    result = fit(task(), CONFIG, tmp_path / "run", progress=False)
    assert result.best["val_f1"] > 95 and result.best["val_exact"] > 95
    assert read_metrics(result.metrics)[0]["loss"] > 1.0 > result.best["val_loss"]
    model, tokenizer = load(tmp_path / "run" / "best")
    found = find_answers(
        model, tokenizer, [("which city ?", "we saw a red oslo"), ("which city ?", "we saw red")]
    )
    assert found[0][0].text == "oslo" and found[0][0].probability > 0.5
    assert found[1][-1].probability > 0.5


def test_a_run_that_stopped_goes_on_to_the_same_bits(tmp_path):
    config = TrainConfig(**{**CONFIG.to_dict(), "steps": 8, "save_every": 4, "eval_every": 4})
    fit(task(config), config, tmp_path / "whole", progress=False)
    half = TrainConfig(**{**config.to_dict(), "steps": 4})
    fit(task(half), half, tmp_path / "halves", progress=False)
    fit(task(config), config, tmp_path / "halves", resume=True, progress=False)
    weights = [
        (tmp_path / name / "last/model.safetensors").read_bytes() for name in ("whole", "halves")
    ]
    assert weights[0] == weights[1]


def test_where_a_window_does_not_hold_the_answer_its_first_token_is_the_target():
    made = task(longest=16)
    some = [tuple(t) for t in made.batches.data.targets]
    assert (0, 0) in some and any(start > 0 for start, _ in some)
    for row, (start, end) in zip(made.batches.data.rows, some, strict=True):
        assert 0 <= start <= end < len(row) <= 16
