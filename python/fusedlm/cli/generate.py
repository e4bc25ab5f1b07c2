"""fusedlm generate: text from a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (  # fmt: skip
    ConfigFile,
    Format,
    GuessTokens,
    MinP,
    ModelFile,
    Precision,
    RepetitionPenalty,
    Temperature,
    Threads,
    TopK,
    TopP,
    load_language_model,
    set_threads,
)


def generate(
    model: ModelFile,
    prompt: Annotated[
        str | None,
        typer.Argument(help="The text to continue; '-' reads it from stdin.", show_default=False),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to add.")] = 200,
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = 1.0,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be given several times.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many continuations.")] = 1,
    seed: Annotated[
        int | None, typer.Option(min=0, help="For the same text again.", show_default="random")
    ] = None,
    schema: Annotated[
        Path | None, typer.Option(help="JSON that fits the JSON schema in this file.")
    ] = None,
    regex: Annotated[
        str | None, typer.Option(help="A text that fits this regular expression.")
    ] = None,
    grammar: Annotated[
        Path | None, typer.Option(help="A text that fits the Lark grammar in this file.")
    ] = None,
    guess_tokens: GuessTokens = 0,
    format: Format = None,
    precision: Precision = "auto",
    threads: Threads = None,
    config: ConfigFile = None,
) -> None:
    """Continue a text; it appears as it is made.

    \b
    Examples:
      fusedlm generate runs/quickstart "ROMEO"
      fusedlm generate runs/mine "It was" --temperature 0 --max-new-tokens 50
      fusedlm generate runs/mine "Q:" --count 4 --stop "Q:" --seed 7
      fusedlm generate SmolLM2.gguf "A name and an age:" --schema person.json
      cat start.txt | fusedlm generate runs/mine -
    """
    set_threads(threads)
    text = sys.stdin.read() if prompt == "-" else (prompt or "")
    loaded = load_language_model(model, precision, format)
    constraint = {
        "schema": None if schema is None else schema.read_text(encoding="utf-8"),
        "regex": regex,
        "grammar": None if grammar is None else grammar.read_text(encoding="utf-8"),
    }
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k,
        "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty,
        "stop": stop or None, "seed": seed, "guess_tokens": guess_tokens, **constraint,
        "slide": not any(constraint.values()),
    }  # fmt: skip
    if count == 1:
        typer.echo(text, nl=False)
        for piece in loaded.stream(text, **options):
            typer.echo(piece, nl=False)
        typer.echo()
        return
    several = loaded.generate([text] * count, **options)
    assert isinstance(several, list)  # as many as prompts
    for number, new in enumerate(several, 1):
        typer.echo(f"--- {number} ---\n{text}{new.text}")
