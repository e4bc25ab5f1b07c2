"""fusedlm explain: one sentence through a model, with its real numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import ConfigFile, Threads, load_with_tokenizer, model_folder, set_threads

if TYPE_CHECKING:
    from fusedlm.data import Tokenizer
    from fusedlm.models import Decoder


def explain(
    text: Annotated[str, typer.Argument(help="The sentence; '-' reads it from stdin.")],
    model: Annotated[
        Path | None,
        typer.Option(
            help="A model folder, a training run or a .gguf file.",
            show_default="a small one, trained for it in seconds",
        ),
    ] = None,
    layer: Annotated[
        list[int] | None,
        typer.Option(
            help="A layer to print in full, from 0; several times for several.", show_default="0"
        ),
    ] = None,
    head: Annotated[
        list[int] | None,
        typer.Option(help="A head to print, from 0; several times for several.", show_default="0"),
    ] = None,
    position: Annotated[
        int | None,
        typer.Option(
            help="The token whose vectors are printed (and whose class, or of a translation the token"
            " after it, is explained), from 0, or from the end, if negative.",
            show_default="the last; of an encoder the first word",
        ),
    ] = None,
    numbers: Annotated[int, typer.Option(min=1, help="How many of each vector's numbers.")] = 8,
    top: Annotated[int, typer.Option(min=1, help="How many of the likeliest tokens.")] = 5,
    question: Annotated[
        str | None,
        typer.Option(help="What a model that finds answers is asked about the text."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="What should come after the text (' Paris'), the right class or answer, or the"
            " translation.",
            show_default="the likeliest; of a translator what it writes",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=0, help="Steps of AdamW; 0 leaves out loss and gradients.")
    ] = 3,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of these steps.",
            show_default="0.001 for the small model, 1e-5 for others",
        ),
    ] = None,
    attribution_steps: Annotated[
        int, typer.Option(min=0, help="Most gradients of the attribution; 0 leaves it out.")
    ] = 512,
    html: Annotated[
        Path | None, typer.Option(help="Write everything as a page, for the browser.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the attention maps as a PNG.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all numbers as JSON.")] = None,
    training_steps: Annotated[
        int, typer.Option(min=0, help="Without --model: training of the small one; 0 is none.")
    ] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Without --model: seed of the small one.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    threads: Threads = None,
    config: ConfigFile = None,
) -> None:
    """Walk one sentence through a model: tokens, attention, probabilities, gradients, AdamW.

    The numbers are those of the model, computed once more in plain torch, where everything in between
    can be seen, and compared with what the fused kernels give.

    \b
    Examples:
      fusedlm explain "我喜欢编程"
      fusedlm explain "我喜欢编程" --html walk.html --plot maps.png
      fusedlm explain "The capital of France is" --model SmolLM2.gguf --target " Paris"
      fusedlm explain "Attention is a weighted mean." --model all-MiniLM-L6-v2 --layer 5 --head 3
    """
    from rich.console import Console

    from fusedlm.explain import (
        AdamSettings,
        Question,
        View,
        plot_attention,
        print_walk,
        walk,
        write_page,
    )
    from fusedlm.explain.tracing import layers_of

    set_threads(threads)
    sentence = (sys.stdin.read() if text == "-" else text).strip("\r\n")
    if lr is None:
        lr = 1e-3 if model is None else 1e-5
    wanted = Question(
        numbers=numbers, top=top, asked=question, target=target, position=position, steps=steps,
        adam=AdamSettings(lr=lr), attribution_steps=attribution_steps,
    )  # fmt: skip
    if model is None:
        loaded, tokenizer, note = _small(sentence, training_steps, seed, quiet)
        name = "the lesson's model"
    else:
        found = model_folder(model)
        loaded, tokenizer = load_with_tokenizer(found)
        path = found.resolve()
        name, note = (f"{path.parent.name}/{path.name}" if path.is_dir() else path.name), ""
    view = View(tuple(layer or (0,)), tuple(head or (0,)))
    shape = layers_of(loaded)
    layers = max(shape.layers, getattr(shape, "decoder_layers", 0))
    view.check(layers=layers, heads=shape.heads)  # before anything is computed
    with Console(stderr=True, quiet=quiet).status("") as status:
        shown = walk(
            loaded, tokenizer, sentence, wanted, name=name, note=note, progress=status.update
        )
    if not quiet:
        print_walk(shown, view)
    written = []
    for file, write in (
        (html, lambda path: write_page(shown, path, view)),
        (json, shown.save),
        (plot, lambda path: plot_attention(shown, path)),  # last: pictures have limits
    ):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            written.append(write(file))
    if written and not quiet:
        typer.echo("written: " + ", ".join(map(str, written)))


def _small(sentence: str, steps: int, seed: int, quiet: bool) -> tuple[Decoder, Tokenizer, str]:
    """The lesson's model, and how it came about."""
    from tqdm import tqdm

    from fusedlm.explain import lesson_model
    from fusedlm.explain.lesson import sentences

    with tqdm(total=steps, desc="training a small model", unit="step", leave=False,
              disable=quiet or not steps) as bar:  # fmt: skip
        loaded, tokenizer = lesson_model(
            sentence, steps=steps, seed=seed, progress=lambda *_: bar.update()
        )
    learned = set("".join(sentences()))
    note = (
        "No --model was given: this one has just been made, so small that its numbers can be read,"
        f" and trained for {steps} steps on {len(sentences())} short sentences, Chinese and English."
        if steps
        else "No --model was given: this one is untrained, its weights are as they were drawn."
    )
    new = sorted(set(sentence) - learned)
    if steps and new:
        note += f" It has never seen {' '.join(repr(c) for c in new)}: their rows are as drawn."
    return loaded, tokenizer, note
