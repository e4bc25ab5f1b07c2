"""fusedlm answer train: a model that finds answers, from questions whose answers are marked."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..about import about
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
from ..run_json import check_resumed, must_be_free, recall, remember

if TYPE_CHECKING:
    from fusedlm.data import Questions
    from fusedlm.train import QuestionAnswering, TrainConfig

_ON_RESUME = {"out", "resume", "epochs", "threads", "quiet", "config"}


@dataclass(frozen=True)
class Settings:
    """What a run learns from and how; run.json in its folder remembers it."""

    data: str
    validation_data: str | None
    validation: float
    base: str
    longest: int
    epochs: int
    batch: int
    lr: float
    warmup: float
    weight_decay: float
    freeze: int | None
    precision: str
    seed: int

    def train_config(self, batches: int) -> TrainConfig:
        """For epochs of `batches` batches, each with a validation and a checkpoint at its end."""
        from fusedlm.train import TrainConfig

        steps = self.epochs * batches
        return TrainConfig(
            steps=steps, batch=self.batch, lr=self.lr, min_lr_ratio=0.0,
            warmup=round(self.warmup * steps), weight_decay=self.weight_decay, betas=(0.9, 0.999),
            precision=self.precision, seed=self.seed, eval_every=batches, save_every=batches,
        )  # fmt: skip


def train(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Questions as SQuAD's JSON (1.1 or 2.0) or JSON lines.", show_default=False
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--from", help="An encoder to start from: a folder, or minilm.", show_default=False
        ),
    ] = None,
    out: RunFolder = Path("runs/answer"),
    resume: Resume = False,
    validation_data: Annotated[
        Path | None,
        typer.Option(help="Questions to choose the best model by.", show_default="a share of data"),
    ] = None,
    validation: Annotated[
        float, typer.Option(min=0.001, max=0.9, help="Share of the texts for that.")
    ] = 0.1,
    longest: Annotated[
        int, typer.Option(min=16, help="Tokens of a window: question and text together.")
    ] = 384,
    epochs: Annotated[int, typer.Option(min=1, help="Times that all questions are seen.")] = 3,
    batch: Annotated[int, typer.Option(min=1, help="Windows in a batch.")] = 16,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-4,
    warmup: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the steps in which it rises.")
    ] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="AdamW's decay of matrices.")] = 0.01,
    freeze: Annotated[
        int | None, typer.Option(min=0, help="Leave embeddings and so many blocks as they are.")
    ] = None,
    seed: Seed = 0,
    precision: Precision = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    license: License = None,
    data_license: DataLicense = None,
    config: ConfigFile = None,
) -> None:
    """Train an encoder to find answers in texts, or to say that there is none.

    A text that is longer than a window is read in several that overlap. All questions about a text are
    either trained on or validated on. Questions whose answer is not where the file says are left out
    and counted. Ctrl-C saves; --resume goes on bit for bit.

    \b
    Examples:
      fusedlm answer train train-v2.0.json --validation-data dev-v2.0.json --from minilm --out runs/squad
      fusedlm answer train questions.jsonl --from deepset-roberta-base-squad2 --epochs 1
      fusedlm answer train --resume --out runs/squad
    """
    from fusedlm.train.run_folder import hold

    set_threads(threads)
    context.with_resource(hold(out))
    if resume:
        check_resumed(context, _ON_RESUME)
        settings = recall(out, "answer train", lambda values: Settings(**values))
        _go_on(
            replace(settings, epochs=epochs) if "epochs" in given(context) else settings, out, quiet
        )
        return
    if data is None:
        raise ValueError("data is missing: give a file of questions (or --resume)")
    if base is None:
        raise ValueError("--from is missing: give an encoder (or --resume)")
    settings = Settings(
        str(data), None if validation_data is None else str(validation_data), validation, base,
        longest, epochs, batch, lr, warmup, weight_decay, freeze, choose_precision(precision), seed,
    )  # fmt: skip
    said = about(
        data, base=base, license=license, data_license=data_license, epochs=epochs, freeze=freeze,
        longest_window=longest,
    )  # fmt: skip
    _begin(settings, said, out, quiet)


def _begin(settings: Settings, said: dict[str, Any], out: Path, quiet: bool) -> None:
    import torch

    from .model import reader_on

    must_be_free(out, "answer train")
    parts = _read(settings)
    torch.manual_seed(settings.seed)
    model, tokenizer = reader_on(settings.base)
    remember(out, asdict(settings), said)
    _fit(settings, model, tokenizer, parts, out, quiet)


def _go_on(settings: Settings, out: Path, quiet: bool) -> None:
    from fusedlm.train import load_checkpoint

    checkpoint = load_checkpoint(out / "last")
    parts = _read(settings)
    model, tokenizer, warmup = checkpoint.model, checkpoint.tokenizer, checkpoint.config.warmup
    _fit(settings, model, tokenizer, parts, out, quiet, warmup=warmup)


def _read(settings: Settings) -> tuple[Questions, Questions]:
    """(questions to train on, questions to validate on)."""
    from fusedlm.data import read_questions

    data = read_questions(settings.data)
    path = settings.validation_data
    validation = None if path is None else read_questions(path)
    for part in (data, validation):
        for line in [] if part is None else part.skipped.lines():
            typer.echo(line)
    if validation is not None:
        return data, validation
    train, held = data.split(settings.validation)
    for name, part in (("train", train), ("validate", held)):
        if not len(part):
            raise ValueError(
                f"{settings.data}: no text is left to {name} on with --validation"
                f" {settings.validation:g}; give --validation-data"
            )
    return train, held


def _fit(
    settings: Settings, model: Any, tokenizer: Any, parts: tuple[Questions, Questions], out: Path,
    quiet: bool, *, warmup: int | None = None,
) -> None:  # fmt: skip
    """Trains; goes on with the `warmup` steps that a run began with, where they are given."""
    from fusedlm.train import QuestionAnswering, fit
    from fusedlm.train.classification import freeze

    if settings.freeze is not None:
        freeze(model, settings.freeze)
    train, held = parts
    # The number of batches, and with it the number of steps, follows from the data.
    task = QuestionAnswering(
        model, tokenizer, train.rows, held.rows, settings.train_config(1), longest=settings.longest
    )
    config = settings.train_config(task.batches.per_epoch)
    if warmup is not None:  # other epochs would make it another share
        config = replace(config, warmup=warmup)
    _describe(settings, task, parts, out)
    tell = _Epochs(settings.epochs, config.eval_every)
    result = fit(
        task, config, out, resume=warmup is not None, progress=not quiet, on_evaluation=tell
    )
    if result.interrupted:
        typer.echo(f"stopped and saved at step {result.step} of {config.steps}; go on with")
        typer.echo(f"  fusedlm answer train --resume --out {out}")
        return
    typer.echo(
        f"\nbest model      {result.best_checkpoint}\nmetrics         {result.metrics}\n"
        f"loss curve      {result.curve_png}\n\nTry next:\n"
        f"  fusedlm answer eval {out} {settings.validation_data or settings.data}\n"
        f'  fusedlm answer run {out} "Your question?" --text-file text.txt'
    )


def _describe(
    settings: Settings, task: QuestionAnswering, parts: tuple[Questions, Questions], out: Path
) -> None:
    counts = ", ".join(
        f"{len(part):,} to {name} ({sum(not row.answers for row in part.rows):,} without an answer)"
        for name, part in zip(("train", "validate"), parts, strict=True)
    )
    model = task.model.config
    typer.echo(
        f"data    {counts}; {len(task.batches.data.rows):,} windows to train on\n"
        f"model   {sum(p.numel() for p in task.model.parameters()) / 1e6:.2f} M parameters:"
        f" {model.layers} layers, width {model.width}, vocabulary {model.vocab_size}\n"
        f"run     {settings.epochs} epochs in {settings.precision} -> {out}"
    )


class _Epochs:
    """A line for each epoch."""

    def __init__(self, epochs: int, steps: int) -> None:
        self._epochs, self._steps = epochs, steps

    def __call__(self, found: dict[str, float]) -> None:
        from tqdm import tqdm

        tqdm.write(
            f"epoch {found['step'] // self._steps}/{self._epochs}: training loss {found['loss']:.4f},"
            f" validation loss {found['val_loss']:.4f}, exact {found['val_exact']:.1f}, F1"
            f" {found['val_f1']:.1f}"
        )
