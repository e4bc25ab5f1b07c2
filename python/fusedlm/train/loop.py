"""The training loop."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from fusedlm.data.batches import Batches, validation_batches
from fusedlm.data.packed import PackedData
from fusedlm.data.tokenizer import Tokenizer
from fusedlm.models.decoder import Decoder
from fusedlm.optim import AdamW

from .checkpoint import (
    Progress,
    check_same_settings,
    load_checkpoint,
    save_best,
    save_checkpoint,
)
from .config import TrainConfig
from .evaluation import evaluate
from .metrics import MetricsFile, read_metrics
from .plot import plot_curve
from .schedule import learning_rate


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind."""

    step: int
    best_val_loss: float
    last_checkpoint: Path
    best_checkpoint: Path
    metrics: Path
    curve_png: Path
    tokens_per_second: float
    interrupted: bool


def make_optimizer(model: Decoder, config: TrainConfig) -> AdamW:
    """AdamW in which matrices decay and vectors (norms, biases) do not; frozen parameters are left out."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.dim() >= 2]
    vectors = [p for p in trained if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}]
    if vectors:
        groups.append({"params": vectors, "weight_decay": 0.0})
    return AdamW(
        groups, lr=config.lr, betas=config.betas, eps=config.eps, max_grad_norm=config.clip
    )


def train(
    model: Decoder,
    tokenizer: Tokenizer | None,
    train_data: PackedData,
    val_data: PackedData,
    config: TrainConfig,
    out_dir: str | os.PathLike,
    *,
    resume: bool = False,
    progress: bool = True,
    baselines: dict[str, float] | None = None,
) -> TrainResult:
    """Trains `model` in place and writes last/, best/, metrics.jsonl and curve.png into `out_dir`.

    With `resume` the run goes on from last/ as if it had never stopped, bit for bit. Ctrl-C or
    SIGTERM finishes the step, saves and returns. `baselines` are drawn into the curve.

    Raises FileExistsError where out_dir holds a run and `resume` is not set; FloatingPointError at
    a loss or gradient that is not finite, naming step and batch (the last checkpoint stays);
    OSError where a checkpoint cannot be written; ValueError for data too short for the context.
    """
    out = Path(out_dir)
    last, best = out / "last", out / "best"
    context = config.context or model.config.context
    if context > model.config.context:
        raise ValueError(
            f"train: context is {context}, expected at most the model's {model.config.context}"
        )
    if last.exists() and not resume:
        raise FileExistsError(
            f"{out} holds a training run already; resume it, or choose another folder"
        )
    if train_data.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"train: train_data has a vocabulary of {train_data.vocab_size}, the model one of"
            f" {model.config.vocab_size}"
        )
    batches = Batches(train_data, config.batch, context, config.seed)
    optimizer = make_optimizer(model, config)
    model.compute_dtype = getattr(torch, config.precision)
    # One backward a step: gradients are rounded once, as autocast's are. Several add up in float32.
    model.grad_dtype = model.compute_dtype if config.accumulate == 1 else torch.float32
    model.recompute = config.recompute
    fingerprint = train_data.fingerprint()
    at = Progress()
    if resume:
        checkpoint = load_checkpoint(last)
        check_same_settings(checkpoint, config)
        checkpoint.restore(model, optimizer, batches, fingerprint)
        at = checkpoint.progress
    else:
        torch.manual_seed(config.seed)
    out.mkdir(parents=True, exist_ok=True)
    metrics = MetricsFile(out / "metrics.jsonl", at.step)

    def validate() -> float:
        return evaluate(
            model, validation_batches(val_data, config.batch, context, config.eval_batches)
        )

    def save() -> None:
        save_checkpoint(last, model, tokenizer, optimizer, batches, config, at, fingerprint)

    started, first_step, trained = time.perf_counter(), at.step, 0
    val_loss = at.best_val_loss
    rate = 0.0
    model.train()
    bar = tqdm(
        total=config.steps, initial=at.step, desc="training", unit="step", disable=not progress,
        dynamic_ncols=True,
    )  # fmt: skip
    try:
        with _stop_requests() as stop:
            while at.step < config.steps and not stop.is_set():
                step = at.step + 1
                lr = learning_rate(config, step)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                loss = _step(model, optimizer, batches, config, step, last)
                at.step = step
                tokens = config.batch * config.accumulate * context
                at.tokens += tokens
                trained += tokens
                rate = trained / (time.perf_counter() - started)
                if step % config.log_every == 0 or step == config.steps:
                    metrics.add(
                        step=step, loss=loss, lr=lr, grad_norm=optimizer.last_grad_norm,
                        tokens=at.tokens, tokens_per_second=round(rate, 1),
                    )  # fmt: skip
                bar.update()
                bar.set_postfix_str(_postfix(loss, val_loss, rate), refresh=False)
                if step % config.eval_every == 0 or step == config.steps:
                    val_loss = validate()
                    metrics.add(step=step, val_loss=val_loss)
                    if at.best_val_loss is None or val_loss < at.best_val_loss:
                        at.best_val_loss, at.best_step = val_loss, step
                        save_best(best, model, tokenizer, config, at)
                if step % config.save_every == 0 or step == config.steps:
                    save()
            interrupted = at.step < config.steps
            if interrupted and at.step > first_step:
                save()
    finally:
        bar.close()
        metrics.close()
        model.eval()
    if at.best_val_loss is None:  # stopped before the first evaluation
        at.best_val_loss, at.best_step = validate(), at.step
        save_best(best, model, tokenizer, config, at)
    curve = plot_curve(read_metrics(out / "metrics.jsonl"), out / "curve.png", baselines=baselines)
    return TrainResult(
        step=at.step,
        best_val_loss=at.best_val_loss,
        last_checkpoint=last,
        best_checkpoint=best,
        metrics=out / "metrics.jsonl",
        curve_png=curve,
        tokens_per_second=rate,
        interrupted=interrupted,
    )


def _step(
    model: Decoder, optimizer: AdamW, batches: Batches, config: TrainConfig, step: int, last: Path
) -> float:
    """One optimizer step over `accumulate` batches; returns their mean loss."""
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for _ in range(config.accumulate):
        first = batches.drawn
        loss = model(*batches.next())
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                _not_finite(step, f"the loss is {value}", first, batches, last)
            )
        (loss / config.accumulate).backward()
        total += value
    try:
        optimizer.step()
    except FloatingPointError as error:
        raise FloatingPointError(_not_finite(step, str(error), first, batches, last)) from error
    return total / config.accumulate


def _not_finite(step: int, what: str, first: int, batches: Batches, last: Path) -> str:
    kept = f"; {last} holds the last good checkpoint" if last.exists() else ""
    return (
        f"train: step {step}: {what} (windows {first} to {batches.drawn - 1} of the data order of"
        f" seed {batches.seed}){kept}. Try a lower lr, a longer warmup or a smaller clip"
    )


def _postfix(loss: float, val_loss: float | None, rate: float) -> str:
    shown = f"loss {loss:.3f}"
    if val_loss is not None:
        shown += f", val {val_loss:.3f}"
    return f"{shown}, {rate:,.0f} tok/s"


@contextlib.contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; a second Ctrl-C interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return

    def handle(number: int, _frame) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
