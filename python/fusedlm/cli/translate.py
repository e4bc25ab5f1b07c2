"""fusedlm translate: train a translation model, use it, measure it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    ConfigFile,
    Precision,
    Quiet,
    Threads,
    choose_precision,
    lines_of,
    load_as,
    model_folder,
    set_threads,
)
from .run_json import RUN
from .translate_train import DATA, train

if TYPE_CHECKING:
    from fusedlm.data import TranslationMemory

Beam = Annotated[int, typer.Option(min=1, help="Hypotheses at a time; 1 is greedy.")]
Memory = Annotated[
    Path | None,
    typer.Option(
        help="Parallel texts for the translation memory.", show_default="the run's training part"
    ),
]
LengthPenalty = Annotated[float, typer.Option(min=0, help="Above: longer translations.")]
Consensus = Annotated[
    bool,
    typer.Option(
        help="Take what is most like all hypotheses and the memory's translation, not the likeliest."
    ),
]

app = typer.Typer(
    name="translate",
    help="Train a translation model on your own parallel texts, use it, measure it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command()(train)


@app.command()
def run(
    model: Annotated[Path, typer.Argument(help="A training run or a model folder.")],
    text: Annotated[
        str | None,
        typer.Argument(
            help="What to translate; '-' reads stdin, a text a line.", show_default=False
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Translate the lines of this file.")] = None,
    memory: Memory = None,
    out: Annotated[
        Path | None, typer.Option(help="Write here.", show_default="stdout", dir_okay=False)
    ] = None,
    beam: Beam = 4,
    length_penalty: LengthPenalty = 1.0,
    consensus: Consensus = True,
    precision: Precision = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Translate a text, or the lines of a file or of stdin: a line of output for each.

    An empty line stays empty. A line that is too long for the model is written as it is, one that
    is not UTF-8 as an empty one; both are counted at the end.

    \b
    Examples:
      fusedlm translate run runs/en-de "Save the document"
      fusedlm translate run runs/en-de --file messages.txt --out messages.de.txt
      cat messages.txt | fusedlm translate run runs/en-de -
    """
    from tqdm import tqdm

    from fusedlm.data import clean
    from fusedlm.generate import translate

    set_threads(threads)
    if (text is None) == (file is None):
        raise ValueError("give either a text ('-' for stdin) or --file, to translate")
    lines = [text] if file is None and text != "-" else lines_of(file or "-")
    loaded, tokenizer, remembered = _load(model, precision)
    accelerators = bool(remembered.get("accelerators"))
    known = _known(model, memory, accelerators)
    cleaned = [clean(line or "", accelerators=accelerators) for line in lines]
    with tqdm(total=len(lines), unit="text", disable=quiet or out is None) as bar:
        found = translate(
            loaded, tokenizer, cleaned, memory=known, beam=beam, length_penalty=length_penalty,
            consensus=consensus, progress=bar.update,
        )  # fmt: skip
    made = [line if new is None else new for line, new in zip(lines, found, strict=True)]
    _write(made, out)
    _complain([i for i, line in enumerate(lines, 1) if line is None], "are not UTF-8")
    too_long = [i for i, new in enumerate(found, 1) if new is None]
    _complain(too_long, f"have more than {loaded.config.context - 1} tokens")


@app.command("eval")
def evaluate(
    model: Annotated[Path, typer.Argument(help="A training run or a model folder.")],
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="Parallel texts as for train.", show_default="the run's test part"),
    ] = None,
    memory: Memory = None,
    source_key: Annotated[str, typer.Option(help="Of the source in .jsonl.")] = "source",
    target_key: Annotated[str, typer.Option(help="Of the target in .jsonl.")] = "target",
    beam: Beam = 4,
    length_penalty: LengthPenalty = 1.0,
    consensus: Consensus = True,
    tokenize: Annotated[
        str, typer.Option(help="sacreBLEU's: 13a, zh, char, ...; auto is zh for Chinese, else 13a.")
    ] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for results.", show_default="eval/ in the model's folder"),
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Examples to print.")] = 8,
    precision: Precision = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Measure translations: BLEU, chrF, and placeholders such as %1 that are kept.

    Beside the model stands a translation memory: the translation of the most similar source among
    the pairs that the model was trained on. Writes scores.json, translations.jsonl and scores.png.

    \b
    Examples:
      fusedlm translate eval runs/en-de
      fusedlm translate eval runs/en-de/best new.en new.de --memory runs/en-de/data/train.jsonl
    """
    from fusedlm.data import prepare, read_parallel
    from fusedlm.evaluation.card import add_test

    from .translate_eval import Results, measure

    set_threads(threads)
    loaded, tokenizer, remembered = _load(model, precision)
    accelerators = bool(remembered.get("accelerators"))
    at = _run_of(model)
    if data:
        files = data
    elif at is not None:
        files = [at / DATA / "test.jsonl"]
    else:
        raise ValueError(f"data is missing: {model} is no training run with a test part")
    folder = out or (at or model_folder(model)) / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    found = read_parallel(files, source=source_key, target=target_key)
    ready = prepare(found, accelerators=accelerators)
    if not ready.pairs:
        raise ValueError("; ".join(["the data holds no pair to translate", *ready.skipped.lines()]))
    for line in ready.skipped.lines():
        typer.echo(line)
    results: Results = measure(
        loaded, tokenizer, ready, _known(model, memory, accelerators), beam=beam,
        length_penalty=length_penalty, consensus=consensus, tokenize=tokenize, progress=not quiet,
    )  # fmt: skip
    for line in results.untranslated:
        typer.echo(line)
    typer.echo(results.table())
    for line in results.examples(show):
        typer.echo(line)
    results.write(folder)
    on = ", ".join(file.name for file in data) if data else "the test part"
    add_test(model_folder(model), on, results.scores["all"]["model"])
    typer.echo(f"\nresults {folder}")


def _load(path: Path, precision: str) -> tuple[Any, Any, dict[str, Any]]:
    """The model, its tokenizer, and what its training run remembers."""
    import torch

    from fusedlm.models import EncoderDecoder
    from fusedlm.models.files import read_json

    folder = model_folder(path)
    wanted = "a model that `fusedlm translate train` wrote"
    model, tokenizer = load_as(folder, EncoderDecoder, wanted)
    model.compute_dtype = getattr(torch, choose_precision(precision))
    at = _run_of(path)
    return model, tokenizer, {} if at is None else read_json(at / RUN)


def _known(model: Path, memory: Path | None, accelerators: bool) -> TranslationMemory | None:
    """The translation memory of a file, or of the run that the model is of; None where there is none."""
    from fusedlm.data import TranslationMemory, prepare, read_parallel

    at = _run_of(model)
    file = memory if memory is not None or at is None else at / DATA / "train.jsonl"
    if file is None:
        return None
    ready = prepare(read_parallel([file]), accelerators=accelerators)
    for line in ready.skipped.lines("left out of the memory"):
        typer.echo(line, err=True)
    return TranslationMemory(ready.pairs)


def _run_of(path: Path) -> Path | None:
    """The training run that `path` is, or that it is the best or last model of."""
    for folder in (path, path.resolve().parent):
        if (folder / RUN).is_file() and (folder / DATA).is_dir():
            return folder
    return None


def _write(lines: list[str | None], out: Path | None) -> None:
    from fusedlm.models.files import write_text

    texts = ["" if line is None else line for line in lines]
    if out is None:
        for text in texts:
            typer.echo(text)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, "".join(text + "\n" for text in texts))


def _complain(numbers: list[int], what: str) -> None:
    if numbers:
        shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
        print(f"{len(numbers)} lines {what} and are not translated: {shown}", file=sys.stderr)
