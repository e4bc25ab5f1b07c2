"""fusedlm classify train: a classifier from labelled texts, or a tagger from tagged words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..options import (
    ConfigFile,
    DataLicense,
    License,
    Precision,
    Quiet,
    Resume,
    RunFolder,
    Seed,
    Threads,
    choose_precision,
    given,
    set_threads,
)
from ..run_json import check_resumed
from .source import Format, Group, Label, Positive, TestShare, Text, Where

_ON_RESUME = {"out", "resume", "epochs", "threads", "quiet", "config"}
_OF_A_NEW_MODEL = {
    "backbone", "layers", "width", "heads", "ffn_width", "dropout", "tokenizer", "vocab_size",
}  # fmt: skip
_PRESET = "the preset's"


def _changes(help: str, **limits: Any) -> Any:
    """An option that changes what the preset says."""
    return typer.Option(help=help, show_default=_PRESET, **limits)


def train(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(
            help="CSV, TSV, JSON lines, a folder with one folder a class, a CoNLL file, or imdb.",
            show_default=False,
        ),
    ] = None,
    out: RunFolder = Path("runs/classify"),
    resume: Resume = False,
    preset: Annotated[
        str | None,
        typer.Option(
            help="scratch, classic (a small set-up of tutorials), finetune, or probe (a linear layer"
            " on frozen features).",
            show_default="scratch, or finetune with --from",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--from", help="A model to start from: a folder, a .gguf file, or minilm."),
    ] = None,
    freeze: Annotated[
        int | None, typer.Option(min=0, help="Leave embeddings and so many blocks as they are.")
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Data to test on.", show_default="the test half, or a share")
    ] = None,
    test_share: TestShare = 0.2,
    validation: Annotated[
        float,
        typer.Option(min=0.001, max=0.9, help="Share of the rest to choose the best model on."),
    ] = 0.05,
    text: Text = "text",
    label: Label = "label",
    where: Where = None,
    format: Format = None,
    group: Group = None,
    positive: Positive = None,
    keep_tags: Annotated[
        bool, typer.Option("--keep-tags", help="Read HTML tags as text, not as spaces.")
    ] = False,
    backbone: Annotated[str | None, _changes("Of a new model: encoder, llama or gpt2.")] = None,
    tokenizer: Annotated[str | None, _changes("words, bpe, or a tokenizer.json.")] = None,
    vocab_size: Annotated[int | None, _changes("Words or tokens of a new vocabulary.")] = None,
    layers: Annotated[int | None, _changes("Transformer blocks.", min=1)] = None,
    width: Annotated[int | None, _changes("Width of embeddings and layers.", min=1)] = None,
    heads: Annotated[int | None, _changes("Attention heads.", min=1)] = None,
    ffn_width: Annotated[int | None, _changes("Inside feed-forward layers.", min=1)] = None,
    dropout: Annotated[float | None, _changes("While training.", min=0, max=0.99)] = None,
    ngrams: Annotated[
        int | None, _changes("Longest n-grams with weights of their own; 0: none.", min=0, max=8)
    ] = None,
    ngram_tokens: Annotated[
        int | None, _changes("Tokens of a text that n-grams are taken of, if more.", min=2)
    ] = None,
    block: Annotated[
        int | None, typer.Option("--context", min=2, help="Tokens of a text.", show_default=_PRESET)
    ] = None,
    cut: Annotated[str | None, _changes("Of a longer text, leave out its end or middle.")] = None,
    epochs: Annotated[int | None, _changes("Times that all texts are seen.", min=1)] = None,
    batch: Annotated[int | None, _changes("Texts in a batch.", min=1)] = None,
    lr: Annotated[float | None, _changes("Highest learning rate.")] = None,
    weight_decay: Annotated[float | None, _changes("AdamW's decay of matrices.")] = None,
    label_smoothing: Annotated[
        float | None, _changes("Share of the target that all classes get.", min=0, max=0.99)
    ] = None,
    patience: Annotated[
        int | None, _changes("End after so many epochs without a better model.", min=1)
    ] = None,
    seed: Seed = 0,
    precision: Precision = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    license: License = None,
    data_license: DataLicense = None,
    config: ConfigFile = None,
) -> None:
    """Train a classifier and measure it on texts it has not seen.

    Prints the losses of every epoch, keeps the best model and writes a report with confusion matrix,
    scores of each class, calibration and the worst errors into --out. Texts that occur twice, are
    empty or have no label are left out and counted. Ctrl-C saves; --resume goes on bit for bit.

    \b
    Examples:
      fusedlm classify train imdb --out runs/imdb
      fusedlm classify train imdb --preset classic --out runs/classic
      fusedlm classify train imdb --from minilm --out runs/minilm
      fusedlm classify train mails.csv --text body --label folder --preset probe --from minilm
      fusedlm classify train aclImdb --backbone llama --out runs/llama
      fusedlm classify train train.conll --test dev.conll --from minilm --out runs/names
    """
    from fusedlm.train.run_folder import hold

    from ..about import about
    from .run import Run, start
    from .run import resume as go_on
    from .settings import choose
    from .source import Source

    set_threads(threads)
    context.with_resource(hold(out))
    if resume:
        check_resumed(context, _ON_RESUME)
        run = Run.recall(out)
        if epochs is not None:
            run = replace(run, settings=replace(run.settings, epochs=epochs))
        go_on(run, progress=not quiet)
        return
    if data is None:
        raise ValueError("data is missing: give a file, a folder or imdb (or --resume)")
    if base is not None and (fixed := sorted(given(context) & _OF_A_NEW_MODEL)):
        raise ValueError(
            f"--{fixed[0].replace('_', '-')} cannot be given with --from: the model has its own"
        )
    settings = choose(
        preset, base,
        {
            "freeze": freeze, "keep_tags": keep_tags, "backbone": backbone, "tokenizer": tokenizer,
            "vocab_size": vocab_size, "layers": layers, "width": width, "heads": heads,
            "ffn_width": ffn_width, "dropout": dropout, "ngrams": ngrams,
            "ngram_tokens": ngram_tokens, "context": block, "cut": cut, "epochs": epochs,
            "batch": batch, "lr": lr, "weight_decay": weight_decay,
            "label_smoothing": label_smoothing, "patience": patience, "seed": seed,
            "precision": choose_precision(precision),
        },
    )  # fmt: skip
    source = Source(
        data, test, test_share, validation, text, label, where or [], format, group, positive
    )
    said = about(
        data, base=base, license=license, data_license=data_license, **settings.beyond_training()
    )
    start(Run(out, source, settings, said), progress=not quiet)
