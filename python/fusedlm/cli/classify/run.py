"""A classifier from labelled data to its report: what `fusedlm classify train` does, step by step."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..options import model_folder
from ..run_json import must_be_free, recall, remember
from .settings import Settings, from_values
from .source import Source, Splits, check_groups, read_splits, with_tokens

if TYPE_CHECKING:
    from fusedlm.train import Task
    from fusedlm.train.checkpoint import Checkpoint


@dataclass(frozen=True)
class Run:
    """A run's folder, what it learns from and how; run.json in the folder remembers both."""

    out: Path
    source: Source
    settings: Settings
    about: dict[str, Any] = field(default_factory=dict)  # for the model card

    def remember(self) -> None:
        values = {"source": asdict(self.source), "settings": asdict(self.settings)}
        remember(self.out, values, self.about)

    @classmethod
    def recall(cls, out: Path) -> Run:
        return recall(
            out, "classify train",
            lambda values: cls(out, Source(**values["source"]), from_values(values["settings"])),
        )  # fmt: skip


def start(run: Run, *, progress: bool) -> None:
    """Reads, makes the model, trains it and measures it."""
    must_be_free(run.out, "classify train")
    started = time.perf_counter()
    splits = read_splits(run.source)
    labels = splits.labels
    check_groups(run.source, labels)
    model, tokenizer = _made(run, splits)
    splits = with_tokens(run.source, splits, model, tokenizer)
    if splits.labels != labels:  # a class of which no text has tokens
        model, tokenizer = _made(run, splits)
    run.remember()
    _describe(run, splits, model)
    if run.settings.probe:
        _probe(run, splits, model, tokenizer, progress)
    else:
        _fit(run, splits, model, tokenizer, progress)
    _report(run, splits, started, progress)


def _made(run: Run, splits: Splits) -> tuple[Any, Any]:
    """(model, tokenizer) to train."""
    import torch

    from .model import from_base, new_model

    torch.manual_seed(run.settings.seed)
    task = run.source.task
    if run.settings.base is not None:
        return from_base(run.settings, splits.labels, task)
    return new_model(run.settings, splits.labels, task, splits.train.as_texts())


def resume(run: Run, *, progress: bool) -> None:
    from fusedlm.train import load_checkpoint

    started = time.perf_counter()
    checkpoint = load_checkpoint(run.out / "last")
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    splits = with_tokens(run.source, read_splits(run.source), model, tokenizer)
    _describe(run, splits, model)
    _fit(run, splits, model, tokenizer, progress, before=checkpoint)
    _report(run, splits, started, progress)


def _describe(run: Run, splits: Splits, model: Any) -> None:
    parts = [("train", splits.train), ("validate", splits.validation), ("test", splits.test)]
    counts = ", ".join(f"{len(part):,} to {name}" for name, part in parts if part is not None)
    config = model.config
    for line in splits.skipped.lines():
        typer.echo(line)
    typer.echo(
        f"data    {counts}; {len(splits.labels)} classes: {', '.join(splits.labels[:12])}"
        + (" ..." if len(splits.labels) > 12 else "")
        + f"\nmodel   {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters:"
        f" {config.layers} layers, width {config.width}, vocabulary {config.vocab_size},"
        f" up to {min(config.max_tokens, config.context)} tokens of a text{_more(config)}\n"
        f"run     preset {run.settings.preset}, {run.settings.precision} -> {run.out}"
    )


def _more(config: Any) -> str:
    read = getattr(config, "ngram_tokens", None)
    return "" if read is None else f", n-grams of up to {read}"


def _fit(
    run: Run, splits: Splits, model: Any, tokenizer: Any, progress: bool,
    before: Checkpoint | None = None,
) -> None:  # fmt: skip
    """Trains, or goes on where the checkpoint `before` stands."""
    from fusedlm.train import fit
    from fusedlm.train.classification import freeze

    if run.settings.freeze is not None:
        freeze(model, run.settings.freeze)
    task = _task(splits, model, tokenizer, run.settings)
    config = run.settings.train_config(task.batches.per_epoch)
    epochs = _Epochs(task, run.settings, config.eval_every)
    if before is not None:
        config = replace(config, warmup=before.config.warmup)  # other epochs make it another share
        epochs.recall(run.out / "metrics.jsonl", before.progress.step)
    result = fit(
        task, config, run.out, resume=before is not None, progress=progress,
        on_evaluation=epochs.tell,
    )  # fmt: skip
    if result.interrupted and not epochs.stopped:
        typer.echo(f"stopped and saved at step {result.step} of {config.steps}; go on with")
        typer.echo(f"  fusedlm classify train --resume --out {run.out}")


def _task(splits: Splits, model: Any, tokenizer: Any, settings: Settings) -> Task:
    from fusedlm.data.labelled import Labelled
    from fusedlm.models.texts import encode_texts
    from fusedlm.train import Classification, Sequences, TokenClassification

    # The number of batches, and with it the number of steps, follows from the data.
    config, smoothing = settings.train_config(1), settings.label_smoothing
    if model.config.task == "token":
        return TokenClassification(
            model, tokenizer, splits.train, splits.validation, config, label_smoothing=smoothing
        )
    encoded = [
        Sequences(
            encode_texts("classify", model, tokenizer, part.texts),
            [splits.labels.index(label) for label in part.labels],
        )
        for part in (splits.train, splits.validation)
        if isinstance(part, Labelled)
    ]
    return Classification(model, tokenizer, *encoded, config, label_smoothing=smoothing)


class _Epochs:
    """A line for each epoch, and the end of the run when it gets no better."""

    def __init__(self, task: Any, settings: Settings, steps: int) -> None:
        self._task, self._settings, self._steps = task, settings, steps
        self._values: list[float] = []
        self.stopped = False

    def recall(self, metrics: Path, done: int) -> None:
        from fusedlm.train import read_metrics

        name = self._task.objective
        lines = [line for line in read_metrics(metrics) if name in line and line["step"] <= done]
        self._values = [line[name] for line in lines]

    def tell(self, found: dict[str, float]) -> bool:
        from tqdm import tqdm

        epoch = found["step"] // self._steps
        shown = {"val_accuracy": "accuracy", "val_f1": "F1 of entities"}
        scores = ", ".join(f"{shown[k]} {v:.4f}" for k, v in found.items() if k in shown)
        tqdm.write(
            f"epoch {epoch}/{self._settings.epochs}: training loss {found['loss']:.4f},"
            f" validation loss {found['val_loss']:.4f}, {scores}"
        )
        self._values.append(found[self._task.objective])
        patience = self._settings.patience
        since_best = len(self._values) - 1 - self._values.index(max(self._values))
        self.stopped = patience is not None and since_best >= patience
        if self.stopped:
            tqdm.write(f"no better for {patience} epochs: this is the end")
        return self.stopped


def _probe(run: Run, splits: Splits, model: Any, tokenizer: Any, progress: bool) -> None:
    import torch
    from tqdm import tqdm

    from fusedlm.models import save
    from fusedlm.train import fit_probe
    from fusedlm.train.record import Record

    if model.config.task == "token":
        raise ValueError("--preset probe classifies texts; words need --preset finetune")
    model.compute_dtype = getattr(torch, run.settings.precision)
    task = _task(splits, model, tokenizer, run.settings)
    data, held = task.batches.data, task.validation
    record = Record(task, task.fingerprint(), None)
    with tqdm(
        total=len(data.rows) + len(held.rows), desc="features", unit="text", disable=not progress
    ) as bar:
        found = fit_probe(model, data, held, progress=bar.update)
    typer.echo(
        f"validation loss {found['val_loss']:.4f}, accuracy {found['val_accuracy']:.4f}"
        f" (penalty {found['penalty']:g})"
    )
    chosen = {"penalty": found.pop("penalty"), "precision": run.settings.precision}
    training = {"best": found, **chosen, **record.to_dict()}
    save(run.out / "best", model, tokenizer, training=training)


def _report(run: Run, splits: Splits, started: float, progress: bool) -> None:
    """Measures the best model on what was held back, or where that is nothing on the validation part."""
    from fusedlm.evaluation.card import add_test

    from .measure import measure, show
    from .model import load_classifier

    model, tokenizer = load_classifier(run.out, run.settings.precision)
    on, data = ("test", splits.test) if splits.test is not None else (
        "validation", splits.validation,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    report = measure(
        model, tokenizer, data, run.out / "report", title=f"{run.out.name} on {on} data",
        left_out=splits.skipped.lines(), more={"seconds": round(seconds, 1)}, positive=run.source.positive,
        progress=progress,
    )  # fmt: skip
    source = (on == "test" and run.source.test) or run.source.data
    named = {"report": "report/report.md in the folder of the run"}
    report.pop("seconds")  # the cost says it
    add_test(model_folder(run.out), f"the {on} part of {Path(source).name}", {**report, **named})
    typer.echo(f"\non {on} data:")
    show({**report, "left_out": []}, run.out / "report")
    typer.echo(
        f"best model      {run.out / 'best'}\ntime            {seconds / 60:.1f} minutes without the test"
    )
    for name in ("metrics.jsonl", "curve.png"):
        if (run.out / name).is_file():
            typer.echo(f"{name:<15} {run.out / name}")
