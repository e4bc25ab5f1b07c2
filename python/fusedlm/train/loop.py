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
from types import FrameType

import numpy as np
import torch
from torch import nn

from fusedlm import _interrupt, _sharded
from fusedlm._sharded import rank
from fusedlm.figures import drawn
from fusedlm.optim import AdamW

from . import parallel
from .checkpoint import (
    Progress,
    check_same_settings,
    load_checkpoint,
    save_best,
    save_checkpoint,
)
from .config import TrainConfig
from .metrics import MetricsFile, NoMetrics, read_metrics
from .plot import plot_curve
from .progress import ProgressBar
from .record import Record
from .run_folder import hold
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
    out_dir: str | os.PathLike[str],
    *,
    resume: bool = False,
    progress: bool = True,
    baselines: dict[str, float] | None = None,
    before: dict[str, float] | None = None,
    on_evaluation: Callable[[dict[str, float]], bool | None] | None = None,
) -> TrainResult:
    """Trains task.model in place and writes last/, best/, metrics.jsonl and curve.png into `out_dir`.

    With `resume` the run goes on from last/ as if it had never stopped, bit for bit. Ctrl-C or
    SIGTERM finishes the step, saves and returns. `baselines` are drawn into the curve.
    `before` is what `task.evaluate` found of the model at the start: the metrics and the curve begin with it.
    `on_evaluation` gets the numbers of each evaluation, with "step" and the training "loss" since
    the one before; where it returns true the run ends there, as by Ctrl-C.

    Started by torchrun, the ranks make one run (see `parallel`): all call this alike, rank 0 writes.
    Resuming takes any number of them that divides config.accumulate. With config.parallel "fsdp" each
    is left with a part of task.model.

    Raises FileExistsError where out_dir holds a run and `resume` is not set; FloatingPointError at
    a loss or gradient that is not finite, naming step and batch (the last checkpoint stays);
    BlockingIOError where another process trains there; OSError where a checkpoint cannot be written or
    the folder not at all, ConnectionError where another rank has ended.
    """
    out = Path(out_dir)
    with parallel.contact(out / "last"):
        parallel.start()
        with hold(out):
            return _fit(task, config, out, resume, progress, baselines, before, on_evaluation)


def _fit(
    task: Task, config: TrainConfig, out: Path, resume: bool, progress: bool,
    baselines: dict[str, float] | None, before: dict[str, float] | None,
    on_evaluation: Callable[[dict[str, float]], bool | None] | None,
) -> TrainResult:  # fmt: skip
    last, best = out / "last", out / "best"
    if last.exists() and not resume:
        raise FileExistsError(
            f"{out} holds a training run already; resume it, or choose another folder"
        )
    model, tokenizer = task.model, task.tokenizer
    task.prepare(config)
    fingerprint = task.fingerprint()
    at = Progress()
    if resume:
        checkpoint = load_checkpoint(last, config.parallel)
        check_same_settings(checkpoint, config)
        checkpoint.restore(model, task.batches, fingerprint)
        at = checkpoint.progress
        if at.best is not None and task.objective not in at.best:
            raise ValueError(
                f"{last}: the checkpoint's best model was chosen among {', '.join(at.best)}, this"
                f" run's by {task.objective}; resume with the same objective, or start a new run"
            )
    at.record = Record(task, fingerprint, last if resume else None)
    parallel.check_same(**config.to_dict(), data=fingerprint, step=at.step)
    ranks = parallel.Parallel(task, config)
    optimizer = make_optimizer(model, config)
    if resume:
        checkpoint.restore_optimizer(model, optimizer)
        del checkpoint
    out.mkdir(parents=True, exist_ok=True)
    metrics = MetricsFile(out / "metrics.jsonl", at.step) if rank() == 0 else NoMetrics()
    if before is not None and at.step == 0:
        metrics.add(step=0, **before)

    def judge() -> dict[str, float]:
        found = ranks.evaluate()
        name = task.objective
        if at.best is None or math.isnan(at.best[name]) or task.better(found[name], at.best[name]):
            at.best, at.best_step = found, at.step
            if ranks.saves:
                save_best(best, model, tokenizer, config, at)
        return found

    def save() -> None:
        metrics.sync()
        if ranks.saves:
            save_checkpoint(
                last, model, tokenizer, optimizer, task.batches, config, at, fingerprint
            )

    started, saved, trained = time.perf_counter(), at.step, 0
    val_loss = at.best["val_loss"] if at.best else None
    rate, since = 0.0, []
    model.train()
    bar = ProgressBar(
        total=config.steps, initial=at.step, desc="training", unit="step",
        disable=not progress or rank() > 0, dynamic_ncols=True,
    )  # fmt: skip
    try:
        with _stop_requests() as stop:
            while at.step < config.steps and not parallel.any_of(stop.is_set()):
                step = at.step + 1
                lr = learning_rate(config, step)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                loss, tokens = _step(ranks, optimizer, config, step, last)
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
                    if on_evaluation is not None and rank() == 0 and on_evaluation(told):
                        stop.set()
                    since = []
                if step % config.save_every == 0 or step == config.steps:
                    save()
                    saved = step
            interrupted = at.step < config.steps
            if at.step > saved:
                save()
    finally:
        bar.close()
        metrics.close()
        model.eval()
    # None: stopped before the first evaluation, which is the best then.
    numbers = judge() if at.best is None else at.best
    curve = out / "curve.png"
    if rank() == 0:
        lines = read_metrics(out / "metrics.jsonl")
        drawn(lambda path: plot_curve(lines, path, baselines=baselines, unit=task.loss_unit), curve)
    parallel.any_of(False)  # nobody goes on before everything is written
    return TrainResult(
        step=at.step,
        best=numbers,
        last_checkpoint=last,
        best_checkpoint=best,
        metrics=out / "metrics.jsonl",
        curve_png=curve,
        tokens_per_second=rate,
        interrupted=interrupted,
    )


def _step(
    ranks: parallel.Parallel, optimizer: AdamW, config: TrainConfig, step: int, last: Path
) -> tuple[float, int]:
    """One optimizer step over `accumulate` batches; returns the mean of their loss, and their tokens."""
    task = ranks.task
    optimizer.zero_grad(set_to_none=True)
    first = task.batches.drawn
    batches = parallel.deal(task.batches, config.accumulate)
    mine: list[tuple[float, ...]] = [(task.weight(b), task.tokens(b)) for b in batches]
    counts = parallel.collect(mine)
    weight = sum(w for w, _ in counts)
    if not weight:
        where = task.where(first, task.batches.drawn)
        raise ValueError(f"train: step {step}: nothing is to be learned of its batches ({where})")
    losses = []
    for turn, (batch, (own, _)) in enumerate(zip(batches, mine, strict=True)):
        torch.manual_seed(_noise_seed(config, step, turn * _sharded.ranks() + rank()))
        losses.append(ranks.backward(batch, own / weight, last=turn == len(batches) - 1))
    values = parallel.collect([(loss.item(),) for loss in losses])
    total = sum(loss * (w / weight) for (loss,), (w, _) in zip(values, counts, strict=True))
    try:
        if not math.isfinite(total):
            raise FloatingPointError(f"the loss is {total}")
        optimizer.step()
    except FloatingPointError as error:
        raise FloatingPointError(_not_finite(task, step, str(error), first, last)) from error
    return total, int(sum(tokens for _, tokens in counts))


def _noise_seed(config: TrainConfig, step: int, batch: int) -> int:
    """What dropout draws from: the batch's own, whichever rank computes it, and after a resume."""
    return int(np.random.SeedSequence([config.seed, step, batch]).generate_state(1, np.uint64)[0])


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
    """An event that the first Ctrl-C or SIGTERM sets; a second Ctrl-C interrupts at once.

    A rank that fails ignores SIGTERM from then on: torchrun sends it as soon as it sees another one
    end, and would cut off the message that says why.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        _interrupt.check()
        yield stop
    except Exception:
        if _sharded.ranks() > 1:
            before[signal.SIGTERM] = signal.SIG_IGN
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
