"""Span heads that are trained on the project's questions (examples/questions), from nothing."""

from __future__ import annotations

from pathlib import Path

import torch

from fusedlm.data import Question, read_questions, train_words
from fusedlm.evaluation import answer_report
from fusedlm.models import Encoder, EncoderConfig, find_answers
from fusedlm.models.spans import margin
from fusedlm.train import QuestionAnswering, TrainConfig, fit

FOLDER = Path(__file__).parents[2] / "examples" / "questions"
TRAIN, DEV = (read_questions(FOLDER / f"{name}.json").rows for name in ("train", "dev"))
TOKENIZER = train_words([text for row in TRAIN for text in (row.context, row.question)], 3000)


def untrained() -> Encoder:
    torch.manual_seed(0)
    shape = {"context": 256, "layers": 1, "width": 32, "heads": 2, "dropout": 0.0, "types": 2}
    return Encoder(EncoderConfig(TOKENIZER.vocab_size, task="span", **shape))


def scores(model: Encoder, rows: list[Question]) -> dict:
    found = find_answers(model.eval(), TOKENIZER, [(row.question, row.context) for row in rows])
    texts, margins = [each[0].text for each in found], [margin(each) for each in found]
    return answer_report(rows, texts, margins)


def trained(rows: list[Question], held: list[Question], steps: int, folder: Path) -> Encoder:
    config = TrainConfig(
        steps=steps, batch=8, lr=1e-2, warmup=5, eval_every=steps, save_every=steps,
        precision="float32",
    )  # fmt: skip
    model = untrained()
    fit(QuestionAnswering(model, TOKENIZER, rows, held, config), config, folder, progress=False)
    return model


def test_answers_to_other_questions_are_better_than_those_of_an_untrained_model(tmp_path):
    """So few questions teach it when a text holds no answer, hardly where the answers are."""
    before, after = scores(untrained(), DEV), scores(trained(TRAIN, DEV, 50, tmp_path / "r"), DEV)
    assert after["f1"] > before["f1"] + 10


def test_answers_that_were_learned_are_found_where_they_stand(tmp_path):
    some = TRAIN[:24]
    before = scores(untrained(), some)
    after = scores(trained(some, some[:4], 100, tmp_path / "r"), some)
    assert before["answerable"]["f1"] < 20 and after["answerable"]["f1"] > 50  # 74 measured
