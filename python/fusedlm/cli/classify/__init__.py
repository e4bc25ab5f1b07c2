"""fusedlm classify: classes of texts and tags of words, by one's own examples."""

from __future__ import annotations

import typer

from .evaluate import evaluate
from .predict import predict
from .train import train

classify = typer.Typer(
    help="Train, measure and use classifiers of texts, and taggers of words.",
    no_args_is_help=True, rich_markup_mode=None,
)  # fmt: skip
classify.command()(train)
classify.command()(predict)
classify.command("eval")(evaluate)
