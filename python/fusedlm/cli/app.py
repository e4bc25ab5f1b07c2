"""The commands together, and how their errors reach the user."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from fusedlm import _interrupt

from .answer import answer
from .card import card
from .chat import chat
from .choices import choices
from .classify import classify
from .embed import embed
from .evaluate import evaluate
from .explain import explain
from .export import export
from .fairness import fairness
from .generate import generate
from .info import info
from .preprocess import preprocess
from .quantize import quantize
from .quickstart import quickstart
from .serve import serve
from .train import train
from .translate import app as translate
from .tune import tune

app = typer.Typer(
    name="fusedlm",
    help="Train and run transformer language models, fast, on the machine you have.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_and_exit(what: Callable[[], object]) -> Callable[[bool], None]:
    def callback(given: bool) -> None:
        if given:
            typer.echo(what())
            raise typer.Exit

    return callback


def _version() -> str:
    import fusedlm

    return fusedlm.__version__


def _folder(name: str) -> Callable[[], object]:
    def look_up() -> object:
        from fusedlm import cpp

        return getattr(cpp, name)()

    return look_up


def _shows(option: str, what: Callable[[], object], help: str) -> typer.models.OptionInfo:
    callback = _print_and_exit(what)
    shown: typer.models.OptionInfo = typer.Option(
        option, help=help, callback=callback, is_eager=True, show_default=False
    )
    return shown


@app.callback()
def options(
    version: Annotated[bool, _shows("--version", _version, "Print the version.")] = False,
    cmake_dir: Annotated[
        bool,
        _shows(
            "--cmake-dir", _folder("cmake_dir"), "Print where the CMake package is: fusedlm_DIR."
        ),
    ] = False,
    include_dir: Annotated[
        bool, _shows("--include-dir", _folder("include_dir"), "Print where the C++ headers are.")
    ] = False,
    pkgconfig_dir: Annotated[
        bool, _shows("--pkgconfig-dir", _folder("pkgconfig_dir"), "Print where fusedlm.pc is.")
    ] = False,
) -> None:
    pass


app.command()(quickstart)
app.command()(preprocess)
app.command()(train)
app.command()(tune)
app.command()(generate)
app.command()(chat)
app.command()(serve)
app.command("eval")(evaluate)
app.add_typer(classify, name="classify")
app.add_typer(answer, name="answer")
app.command()(choices)
app.command()(fairness)
app.command()(card)
app.command()(embed)
app.command()(explain)
app.command()(export)
app.command()(quantize)
app.command()(info)
app.add_typer(translate)


def _is_interrupt(error: BaseException | None) -> bool:
    """Ctrl-C while a C++ extension loads arrives as an ImportError that KeyboardInterrupt caused."""
    if isinstance(error, ImportError):
        return _is_interrupt(error.__cause__)
    return isinstance(error, KeyboardInterrupt)


def main() -> None:
    """Runs the command line; expected errors become one line and exit code 1."""
    _interrupt.remember()
    try:
        app()
    except (Exception, KeyboardInterrupt) as error:
        if _is_interrupt(error):
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        from fusedlm.errors import EXPECTED

        if not isinstance(error, EXPECTED) or os.environ.get("FUSEDLM_TRACEBACK"):
            raise
        from fusedlm._sharded import rank, ranks

        who = f"rank {rank()}: " if ranks() > 1 else ""
        print(f"{who}error: {error}", file=sys.stderr)
        sys.exit(1)
