"""The reference of the command line: what `--help` of every command says, one page a command."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from .markdown import cell, fenced, from_comment

PROGRAM = "fusedlm"


def program() -> Any:
    """The command line. Of click, or of the copy of click inside typer: neither is imported here."""
    from fusedlm.cli import app

    return typer.main.get_command(app)


def below(command: Any) -> dict[str, Any]:
    """The commands of a group by name, in the order of its --help; none of another command."""
    return dict(getattr(command, "commands", {}))


def program_page() -> str:
    """`fusedlm` itself: options of its own, and what commands there are."""
    return "\n".join(["# Command line\n", *_body(program(), PROGRAM)])


def page(name: str, command: Any) -> str:
    """A command and the commands below it."""
    parts = []
    for depth, full_name, each in _walk(command, f"{PROGRAM} {name}"):
        parts.append(f"{'#' * depth} {full_name}\n")
        parts.extend(_body(each, full_name))
    return "\n".join(parts)


def _walk(command: Any, name: str, depth: int = 1) -> Iterator[tuple[int, str, Any]]:
    yield depth, name, command
    for sub, each in below(command).items():
        yield from _walk(each, f"{name} {sub}", depth + 1)


def _body(command: Any, name: str) -> Iterator[str]:
    context = typer.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        # \b is click's mark for a paragraph whose lines stay as they are.
        title, mark, text = paragraph.partition("\b\n")
        yield (fenced(text, "text") if mark and not title.strip() else from_comment(paragraph))
    yield fenced(f"{name} {usage}")
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    yield from _table("option", [record for record in records if record])
    yield from _table(
        "command",
        [(f"{name} {sub}", each.get_short_help_str(200)) for sub, each in below(command).items()],
    )


def _table(what: str, rows: list[tuple[str, str]]) -> Iterator[str]:
    if rows:
        lines = [f"| `{left.replace('|', ' or ')}` | {cell(right)} |" for left, right in rows]
        yield "\n".join([f"| {what} | |", "| --- | --- |", *lines, ""])
