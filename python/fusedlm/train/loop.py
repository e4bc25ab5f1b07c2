"""The training loop."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from fusedlm.optim import AdamW

from .checkpoint import (
    Progress,
    check_same_settings,
    load_checkpoint,
    save_best,
    save_checkpoint,
)
from .config import TrainConfig
from .metrics import MetricsFile, read_metrics
from .plot import plot_curve
from .schedule import learning_rate
from .task import Task


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind; `best` are the numbers of the model in best/."""

    step: int
    best: dict[str, float]
    last_checkpoint: Path
    best_checkpoint: Path
    metrics: Path
    curve_png: Path
    tokens_per_second: float
    interrupted: bool


def make_optimizer(model: nn.Module, config: TrainConfig) -> AdamW:
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


def fit(
    task: Task,
    config: TrainConfig,
    out_dir: str | os.PathLike,
    *,
    resume: bool = False,
    progress: bool = True,
    baselines: dict[str, float] | None = None,
    on_evaluation: Callable[[dict[str, float]], bool | None] | None = None,
) -> TrainResult:
    """Trains task.model in place and writes last/, best/, metrics.jsonl and curve.png into `out_dir`.

    With `resume` the run goes on from last/ as if it had never stopped, bit for bit. Ctrl-C or
    SIGTERM finishes the step, saves and returns. `baselines` are drawn into the curve.
    `on_evaluation` gets the numbers of each evaluation, with "step" and the training "loss" since
    the one before; where it returns true the run ends there, as by Ctrl-C.

    Raises FileExistsError where out_dir holds a run and `resume` is not set; FloatingPointError at
    a loss or gradient that is not finite, naming step and batch (the last checkpoint stays);
    OSError where a checkpoint cannot be written.
    """
    out = Path(out_dir)
    last, best = out / "last", out / "best"
    if last.exists() and not resume:
        raise FileExistsError(
            f"{out} holds a training run already; resume it, or choose another folder"
        )
    model, tokenizer = task.model, task.tokenizer
    optimizer = make_optimizer(model, config)
    task.prepare(config)
    fingerprint = task.fingerprint()
    at = Progress()
    if resume:
        checkpoint = load_checkpoint(last)
        check_same_settings(checkpoint, config)
        checkpoint.restore(model, optimizer, task.batches, fingerprint)
        at = checkpoint.progress
    else:
        torch.manual_seed(config.seed)
    out.mkdir(parents=True, exist_ok=True)
    metrics = MetricsFile(out / "metrics.jsonl", at.step)

    def judge() -> dict[str, float]:
        found = task.evaluate()
        name = task.objective
        if at.best is None or task.better(found[name], at.best[name]):
            at.best, at.best_step = found, at.step
            save_best(best, model, tokenizer, config, at)
        return found

    def save() -> None:
        save_checkpoint(last, model, tokenizer, optimizer, task.batches, config, at, fingerprint)

    started, first_step, trained = time.perf_counter(), at.step, 0
    val_loss = at.best["val_loss"] if at.best else None
    rate, since = 0.0, []
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
                loss, tokens = _step(task, optimizer, config, step, last)
                since.append(loss)
                at.step = step
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
                    found = judge()
                    val_loss = found["val_loss"]
                    metrics.add(step=step, **found)
                    told = {"step": step, "loss": sum(since) / len(since), **found}
                    if on_evaluation is not None and on_evaluation(told):
                        stop.set()
                    since = []
                if step % config.save_every == 0 or step == config.steps:
                    save()
            interrupted = at.step < config.steps
            if interrupted and at.step > first_step:
                save()
    finally:
        bar.close()
        metrics.close()
        model.eval()
    if at.best is None:  # stopped before the first evaluation
        judge()
    curve = plot_curve(
        read_metrics(out / "metrics.jsonl"), out / "curve.png", baselines=baselines,
        unit=task.loss_unit,
    )  # fmt: skip
    return TrainResult(
        step=at.step,
        best=at.best,
        last_checkpoint=last,
        best_checkpoint=best,
        metrics=out / "metrics.jsonl",
        curve_png=curve,
        tokens_per_second=rate,
        interrupted=interrupted,
    )


def _step(
    task: Task, optimizer: AdamW, config: TrainConfig, step: int, last: Path
) -> tuple[float, int]:
    """One optimizer step over `accumulate` batches; returns the mean of their loss, and their tokens."""
    optimizer.zero_grad(set_to_none=True)
    first = task.batches.drawn
    batches = [task.batches.next() for _ in range(config.accumulate)]
    weights = [task.weight(batch) for batch in batches]
    total = 0.0
    for batch, weight in zip(batches, weights, strict=True):
        loss = task.loss(batch)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(_not_finite(task, step, f"the loss is {value}", first, last))
        share = weight / sum(weights)
        (loss * share).backward()
        total += value * share
    try:
        optimizer.step()
    except FloatingPointError as error:
        raise FloatingPointError(_not_finite(task, step, str(error), first, last)) from error
    return total, sum(task.tokens(batch) for batch in batches)


def _not_finite(task: Task, step: int, what: str, first: int, last: Path) -> str:
    kept = f"; {last} holds the last good checkpoint" if last.exists() else ""
    return (
        f"train: step {step}: {what} ({task.where(first, task.batches.drawn)}){kept}."
        " Try a lower lr, a longer warmup or a smaller clip"
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
