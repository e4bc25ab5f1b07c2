"""Training as `fit` does it, with evaluations and checkpoints, on batches of ever other shapes."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusedlm.data import PackedData
from fusedlm.train import LanguageModelling, TrainConfig, fit

from . import subject
from .meter import Meter

SHAPES = 48  # few enough for each to come several times in a short run
EVERY = 200  # steps from one evaluation and checkpoint to the next


class RaggedBatches:
    """Windows of 1 to CONTEXT tokens, 1 to 8 at a time: all shapes in turn, each time in a new order."""

    def __init__(self, data: PackedData, meter: Meter) -> None:
        self.data, self.seed, self.drawn = data, 0, 0
        self._meter = meter
        draw = random.Random(0)
        self._shapes = [
            (draw.randint(1, 8), draw.randint(1, subject.CONTEXT)) for _ in range(SHAPES)
        ]

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        turn, place = divmod(self.drawn, SHAPES)
        draw = random.Random(self.drawn)
        kind = random.Random(turn).sample(range(SHAPES), SHAPES)[place]
        self._meter.begin(kind)  # a step begins with its batch
        self.drawn += 1
        batch, length = self._shapes[kind]
        starts = [draw.randrange(len(self.data) - length) for _ in range(batch)]
        rows = [self.data.ids[s : s + length + 1].astype("int64") for s in starts]
        both = torch.from_numpy(np.stack(rows))
        return both[:, :-1], both[:, 1:]

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]


def run(meter: Meter, seconds: float, report: Callable[[Meter], None]) -> None:
    """Trains for `seconds`; `report` is called at each evaluation."""
    tokenizer = subject.tokenizer()
    train, validation = subject.data(tokenizer)
    config = TrainConfig(
        steps=10**9,
        batch=4,
        lr=1e-4,
        eval_every=EVERY,
        save_every=EVERY,
        eval_batches=4,
        log_every=10,
    )
    task = LanguageModelling(subject.model(tokenizer), tokenizer, train, validation, config)
    task.batches = RaggedBatches(train, meter)

    def told(_numbers: dict[str, float]) -> bool:
        report(meter)
        done = meter.seconds >= seconds
        if done:
            meter.end()  # before the curve is drawn, which is no step
        return done

    with tempfile.TemporaryDirectory(prefix="fusedlm-soak-") as folder:
        fit(task, config, Path(folder) / "run", progress=False, on_evaluation=told)
