"""The commands together, and how their errors reach the user."""

from __future__ import annotations

import os
import sys

import typer

from .embed import embed
from .evaluate import evaluate
from .export import export
from .generate import generate
from .info import info
from .quantize import quantize
from .quickstart import quickstart
from .train import train

app = typer.Typer(
    name="fusedlm",
    help="Train and run transformer language models, fast, on the machine you have.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(quickstart)
app.command()(train)
app.command()(generate)
app.command("eval")(evaluate)
app.command()(embed)
app.command()(export)
app.command()(quantize)
app.command()(info)


def main() -> None:
    """Runs the command line; expected errors become one line and exit code 1."""
    try:
        app()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        from fusedlm.errors import CorruptFileError

        expected = (
            ValueError, OSError, FloatingPointError, NotImplementedError, MemoryError,
            CorruptFileError,
        )  # fmt: skip
        if not isinstance(error, expected) or os.environ.get("FUSEDLM_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
