"""fusedlm answer: answers to questions, found in texts."""

from __future__ import annotations

import typer

from .evaluate import evaluate
from .run import run
from .train import train

answer = typer.Typer(
    help="Train, measure and use models that find the answer to a question in a text.",
    no_args_is_help=True, rich_markup_mode=None,
)  # fmt: skip
answer.command()(train)
answer.command()(run)
answer.command("eval")(evaluate)
