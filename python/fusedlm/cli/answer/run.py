"""fusedlm answer run: the answer to a question, out of a text."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..options import AsJson, ConfigFile, Precision, Threads, set_threads
from .evaluate import Threshold

_AROUND = 60  # characters of the text that are shown on each side


def run(
    model: Annotated[Path, typer.Argument(help="A training run or a model folder.")],
    questions: Annotated[list[str], typer.Argument(help="Questions, each a word of the shell.")],
    text: Annotated[
        str | None, typer.Option(help="The text to look in.", show_default=False)
    ] = None,
    text_file: Annotated[
        Path | None,
        typer.Option(help="A file with the text, of any length; '-' is stdin.", show_default=False),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Answers to show of each question.")] = 1,
    threshold: Threshold = None,
    as_json: AsJson = False,
    precision: Precision = "auto",
    threads: Threads = None,
    config: ConfigFile = None,
) -> None:
    """Find the answer to a question in a text, or say that there is none.

    Shows how likely the model finds it among all parts of the text and "no answer", and what stands
    around it.

    \b
    Examples:
      fusedlm answer run runs/squad "Who wrote it?" --text-file book.txt --top 3
      fusedlm answer run runs/squad "When?" "Where?" --text "Ada was born in London in 1815."
    """
    from fusedlm.models import find_answers
    from fusedlm.models.spans import margin

    from .model import load_reader

    if text is not None and text_file is None:
        context = text
    elif text_file is not None and text is None:
        context = _read(text_file)
    else:
        raise ValueError("give --text or --text-file, one of the two")
    set_threads(threads)
    for name, value in (("the text", context), *(("a question", q) for q in questions)):
        if not value.strip():
            raise ValueError(f"{name} is empty")
    loaded, tokenizer, known = load_reader(model, precision)
    limit = known if threshold is None else threshold
    found = find_answers(loaded, tokenizer, [(q, context) for q in questions], top=top)
    for question, answers in zip(questions, found, strict=True):
        *some, nothing = answers
        answered = margin(answers) <= limit
        if as_json:
            rows = [asdict(each) for each in some]
            typer.echo(json.dumps({
                "question": question, "answer": some[0].text if answered else None, "answers": rows,
                "no_answer_probability": nothing.probability,
            }, ensure_ascii=False))  # fmt: skip
            continue
        typer.echo(question if len(questions) > 1 else "", nl=len(questions) > 1)
        if not answered:
            typer.echo(
                f"no answer ({nothing.probability:.0%})" + ("; the likeliest:" if top > 1 else "")
            )
        for each in some if answered or top > 1 else []:
            typer.echo(
                f"{each.text} ({each.probability:.0%})  {_around(context, each.start, each.end)}"
            )


def _read(file: Path) -> str:
    if str(file) == "-":
        return sys.stdin.read()
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error})") from None


def _around(text: str, start: int, end: int) -> str:
    """What stands before and after, on one line."""
    before, after = text[max(0, start - _AROUND) : start], text[end : end + _AROUND]
    cut = ("…" if start > _AROUND else "", "…" if end + _AROUND < len(text) else "")
    shown = f"{cut[0]}{before}[{text[start:end]}]{after}{cut[1]}"
    return " ".join(shown.split())
