"""Generation in rounds of ever other shapes: through a decoder, and in one batch that never empties."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from fusedlm.generate import Batch, Job, LanguageModel, generate
from fusedlm.models import Decoder, save

from . import subject
from .meter import Meter

ROUND = 20  # generations
KINDS = 8
GUESSES = (0, 0, 4)
_SAMPLINGS = (
    {"temperature": 0.0},
    {"top_k": 20},
    {"top_p": 0.9, "repetition_penalty": 1.2},
    {"min_p": 0.05, "temperature": 0.7},
)


def run(meter: Meter, generations: int, report: Callable[[Meter], None]) -> None:
    """`meter` counts ROUND of them a piece; `report` is called after each."""
    tokenizer = subject.tokenizer()
    decoder = subject.model(tokenizer).eval()
    with tempfile.TemporaryDirectory(prefix="fusedlm-soak-") as folder:
        save(Path(folder) / "model", decoder, tokenizer)
        model = LanguageModel.load(Path(folder) / "model", dtype="float32")
        for number in range(-(-generations // ROUND)):
            kind = number % KINDS
            meter.begin(kind)
            draw = random.Random(kind)  # a kind is the same work each time
            (_by_decoder if kind % 4 == 0 else _by_batch)(draw, decoder, model)
            meter.end()
            report(meter)


def _by_decoder(draw: random.Random, decoder: Decoder, _model: LanguageModel) -> None:
    """An engine of its own for each call; texts go on beyond the context."""
    left = ROUND
    while left:
        rows = min(left, draw.randint(1, 8))
        left -= rows
        generate(
            decoder, [_prompt(draw) for _ in range(rows)], max_new_tokens=draw.randint(1, 48), seed=left,
            guess_tokens=draw.choice(GUESSES), **draw.choice(_SAMPLINGS),
        )  # fmt: skip


def _by_batch(draw: random.Random, _decoder: Decoder, model: LanguageModel) -> None:
    """Requests come while others run; some are cancelled, some end at a string, some must match."""
    batch: Batch = model.batch
    left, running = ROUND, []
    while left or any(not job.done for job in running):
        for _ in range(min(left, draw.randint(0, 3))):
            left -= 1
            running.append(_submit(draw, batch, model))
        batch.step()
        if draw.random() < 0.01:
            batch.cancel(draw.choice([*running, _submit(draw, batch, model)]))


def _submit(draw: random.Random, batch: Batch, model: LanguageModel) -> Job:
    options = draw.choice(_SAMPLINGS)
    how = draw.randrange(4)
    if how == 0:
        options = {**options, "regex": "[a-z]{1,6}( [a-z]{1,6}){0,4}"}
    elif how == 1:
        options = {**options, "stop": ["fox", " the"]}
    elif how == 2:
        options = {**options, "slide": True, "ignore_eos": True}
    checked = model.options(
        max_new_tokens=draw.randint(1, 64), seed=draw.randrange(2**31),
        guess_tokens=draw.choice(GUESSES), **options,
    )  # fmt: skip
    return batch.submit(_prompt(draw), checked)


def _prompt(draw: random.Random) -> list[int]:
    return [draw.randrange(256) for _ in range(draw.randint(1, subject.CONTEXT - 8))]
