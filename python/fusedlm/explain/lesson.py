"""A model small enough to read all of its numbers, trained in seconds on a few dozen sentences."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

import torch

from fusedlm.data import Tokenizer, train_chars
from fusedlm.data.labelled import is_text
from fusedlm.models import Decoder, ModelConfig
from fusedlm.train import TrainConfig
from fusedlm.train.loop import make_optimizer

SHAPE = {"layers": 2, "width": 16, "heads": 2, "ffn_width": 32}
STEPS = 200


def sentences() -> list[str]:
    """The sentences that come with the package, in Chinese and English."""
    text = resources.files(__package__).joinpath("sentences.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]


def lesson_model(
    text: str, *, steps: int = STEPS, seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[Decoder, Tokenizer]:  # fmt: skip
    """A GPT-2 of 2 layers and 2 heads of width 8, and its tokenizer: a character is a token.

    It is trained for `steps` on `sentences()`, each with the end-of-text token behind it; 0 leaves the
    weights as they were drawn. The characters of `text` have tokens too, but `text` itself is not
    learned. The same for the same text, steps and seed. progress(step, loss) is called after each step.
    """
    if type(steps) is not int or steps < 0:
        raise ValueError(f"lesson_model: steps is {steps!r}, expected an integer of at least 0")
    if not text.strip():
        raise ValueError("lesson_model: text is empty, expected a sentence")
    if not is_text(text):
        raise ValueError("lesson_model: text holds bytes that are not UTF-8, expected Unicode")
    learned = sentences()
    tokenizer = train_chars([*learned, text])
    rows = [[*tokenizer.encode(sentence), tokenizer.eos_id] for sentence in learned]
    context = max(len(text), *map(len, rows))
    torch.manual_seed(seed)
    config = ModelConfig.gpt2(vocab_size=tokenizer.vocab_size, context=context, **SHAPE)
    model = Decoder(config).train()
    ids = torch.full((len(rows), max(map(len, rows))), tokenizer.eos_id)
    targets = torch.full_like(ids, config.ignore_index)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        targets[number, : len(row) - 1] = torch.tensor(row[1:])
    optimizer = make_optimizer(model, TrainConfig(lr=1e-2, weight_decay=0.01))
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:  # falls in a straight line, so that the end is quiet
            group["lr"] = 1e-2 * (1 - (step - 1) / steps)
        optimizer.zero_grad()
        loss = model(ids[:, :-1].contiguous(), targets[:, :-1].contiguous())
        loss.backward()
        optimizer.step()
        if progress is not None:
            progress(step, loss.item())
    return model.eval(), tokenizer
