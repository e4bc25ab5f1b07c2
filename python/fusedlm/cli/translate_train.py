"""fusedlm translate train: a translation model from parallel texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .about import about
from .options import (
    Accumulate,
    Clip,
    ConfigFile,
    DataLicense,
    Dropout,
    EvalEvery,
    Heads,
    LearningRate,
    License,
    LogEvery,
    MinLrRatio,
    Precision,
    Quiet,
    Resume,
    RunFolder,
    SaveEvery,
    Seed,
    Steps,
    Threads,
    Warmup,
    WeightDecay,
    Width,
    choose_precision,
    given,
    set_threads,
)
from .run_json import check_resumed, must_be_free, recall, remember

if TYPE_CHECKING:
    from fusedlm.data.parallel import Pair
    from fusedlm.train import TrainConfig, TrainResult, Translation

DATA = "data"
PARTS = ("train", "validation", "test")
# What may be given with --resume.
_ON_RESUME = {
    "out", "resume", "steps", "eval_every", "save_every", "log_every", "threads", "quiet", "config",
}  # fmt: skip


@dataclass(frozen=True)
class Learning:
    """How to learn, beyond TrainConfig; remembered in run.json."""

    accelerators: bool
    label_smoothing: float
    objective: str


def train(
    context: typer.Context,
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A .tsv, .jsonl, .mo or .po file, a folder of .mo and .po, or two text files.",
            show_default=False,
        ),
    ] = None,
    out: RunFolder = Path("runs/translate"),
    resume: Resume = False,
    source_key: Annotated[str, typer.Option(help="Of the source in .jsonl.")] = "source",
    target_key: Annotated[str, typer.Option(help="Of the target in .jsonl.")] = "target",
    keep_accelerators: Annotated[
        bool,
        typer.Option(
            "--keep-accelerators", help="Keep the marks of keys in .mo and .po: _File, E&xit."
        ),
    ] = False,
    validation: Annotated[float, typer.Option(help="Share of pairs to validate on.")] = 0.05,
    test: Annotated[float, typer.Option(help="Share of pairs for `translate eval`.")] = 0.05,
    vocab_size: Annotated[int, typer.Option(help="Tokens of the BPE of both languages.")] = 4000,
    layers: Annotated[int, typer.Option(min=1, help="Of the encoder.")] = 3,
    decoder_layers: Annotated[
        int | None, typer.Option(min=1, help="Of the decoder.", show_default="--layers")
    ] = None,
    width: Width = 256,
    heads: Heads = 4,
    block: Annotated[
        int,
        typer.Option("--context", min=2, help="Longest text in tokens; longer pairs are left out."),
    ] = 256,
    examples: Annotated[
        int,
        typer.Option(
            min=0, help="Translations of similar sources that the model reads beside a source."
        ),
    ] = 1,
    dropout: Dropout = 0.2,
    label_smoothing: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of a target that all tokens get.")
    ] = 0.1,
    steps: Steps = 4500,
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens in a batch, of sources and targets.")
    ] = 1536,
    accumulate: Accumulate = 1,
    lr: LearningRate = 1.5e-3,
    min_lr_ratio: MinLrRatio = 0.02,
    warmup: Warmup = 200,
    weight_decay: WeightDecay = 0.05,
    clip: Clip = 1.0,
    best_by: Annotated[
        str, typer.Option(help="What the best model is best in: val_loss or chrf.")
    ] = "val_loss",
    precision: Precision = "auto",
    seed: Seed = 0,
    eval_every: EvalEvery = 500,
    save_every: SaveEvery = 500,
    log_every: LogEvery = 1,
    threads: Threads = None,
    quiet: Quiet = False,
    license: License = None,
    data_license: DataLicense = None,
    config: ConfigFile = None,
) -> None:
    """Train a translation model on parallel texts.

    Every source is used once, with its most frequent translation. A hash of the source decides
    whether a pair is trained on, validated on or kept for `fusedlm translate eval`; the three parts
    are written into --out/data. Ctrl-C saves and ends; --resume goes on as if nothing had happened.

    \b
    Examples:
      fusedlm translate train /usr/lib/libreoffice/program/resource/de --out runs/en-de
      fusedlm translate train text.en text.de --out runs/en-de
      fusedlm translate train pairs.jsonl --source-key en --target-key fr
      fusedlm translate train --resume --out runs/en-de
    """
    from fusedlm.train import TrainConfig
    from fusedlm.train.run_folder import hold

    set_threads(threads)
    context.with_resource(hold(out))
    if resume:
        check_resumed(context, _ON_RESUME)
        task, settings = _again(out, not quiet)
        values = {"steps": steps, "eval_every": eval_every, "save_every": save_every}
        values |= {"log_every": log_every}
        settings = replace(settings, **{k: v for k, v in values.items() if k in given(context)})
        _carry_out(task, settings, out, resume=True, progress=not quiet)
        return
    if not data:
        raise ValueError("data is missing: give parallel texts, in one file or two (or --resume)")
    settings = TrainConfig(
        steps=steps, batch=batch_tokens, accumulate=accumulate, lr=lr, min_lr_ratio=min_lr_ratio,
        warmup=warmup, betas=(0.9, 0.98), weight_decay=weight_decay, clip=clip,
        precision=choose_precision(precision), seed=seed, eval_every=eval_every,
        save_every=save_every, log_every=log_every,
    )  # fmt: skip
    shape = {
        "layers": layers, "decoder_layers": decoder_layers, "width": width, "heads": heads,
        "context": block, "dropout": dropout, "examples": examples,
    }  # fmt: skip
    accelerators = not keep_accelerators and _are_catalogues(data)
    learning = Learning(accelerators, label_smoothing, best_by)
    must_be_free(out, "translate train")
    pairs = _read(data, source_key, target_key, accelerators)
    task = _begin(pairs, (validation, test), vocab_size, shape, settings, learning, out, not quiet)
    said = about(data, license=license, data_license=data_license, **vars(learning))
    remember(out, vars(learning), said)
    _carry_out(task, settings, out, resume=False, progress=not quiet)


def _are_catalogues(paths: list[Path]) -> bool:
    from fusedlm.data.catalogues import SUFFIXES

    return len(paths) == 1 and (paths[0].is_dir() or paths[0].suffix.lower() in SUFFIXES)


def _read(paths: list[Path], source_key: str, target_key: str, accelerators: bool) -> list[Pair]:
    from fusedlm.data import prepare, read_parallel

    found = read_parallel(paths, source=source_key, target=target_key)
    ready = prepare(found, accelerators=accelerators)
    typer.echo(f"pairs   {len(ready.pairs):,}")
    for line in ready.skipped.lines():
        typer.echo(f"        {line}")
    pairs: list[Pair] = ready.pairs
    return pairs


def _begin(
    pairs: list[Pair], shares: tuple[float, float], vocab_size: int, shape: dict[str, Any], settings: TrainConfig,
    learning: Learning, out: Path, progress: bool,
) -> Translation:  # fmt: skip
    """Pairs -> three parts, which are written into `out`, a tokenizer and a new model."""
    import torch

    from fusedlm.data import split_by_source, train_bpe
    from fusedlm.data.parallel import write_jsonl
    from fusedlm.models import EncoderDecoder, EncoderDecoderConfig

    train_pairs, held = split_by_source(pairs, shares)
    parts = dict(zip(PARTS, (train_pairs, *held), strict=True))
    for name in PARTS[:2]:
        if not parts[name]:
            raise ValueError(
                f"of {len(pairs)} pairs none are for {name}: give more, or another --validation"
            )
    tokenizer = train_bpe((side for pair in train_pairs for side in pair), vocab_size)
    config = EncoderDecoderConfig(vocab_size=tokenizer.vocab_size, end_id=tokenizer.eos_id, **shape)
    torch.manual_seed(settings.seed)
    task = _task(EncoderDecoder(config), tokenizer, parts, settings, learning, progress)
    (out / DATA).mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        write_jsonl(out / DATA / f"{name}.jsonl", parts[name])
    return task


def _again(out: Path, progress: bool) -> tuple[Translation, TrainConfig]:
    """The run in `out`, ready to go on from its last checkpoint."""
    from fusedlm.data import read_parallel
    from fusedlm.train import load_checkpoint

    learning = recall(out, "translate train", lambda values: Learning(**values))
    checkpoint = load_checkpoint(out / "last")
    parts = {name: read_parallel([out / DATA / f"{name}.jsonl"]).pairs for name in PARTS[:2]}
    task = _task(
        checkpoint.model, checkpoint.tokenizer, parts, checkpoint.config, learning, progress
    )
    return task, checkpoint.config


def _task(
    model: Any,
    tokenizer: Any,
    parts: dict[str, Any],
    settings: TrainConfig,
    learning: Learning,
    progress: bool,
) -> Translation:
    from tqdm import tqdm

    from fusedlm.train import Translation

    count = len(parts["train"]) + len(parts["validation"])
    shown = progress and model.config.examples > 0
    with tqdm(total=count, desc="examples", unit="pair", disable=not shown) as bar:
        return Translation(
            model, tokenizer, parts["train"], parts["validation"], settings,
            label_smoothing=learning.label_smoothing, objective=learning.objective,
            progress=bar.update,
        )  # fmt: skip


def _carry_out(
    task: Translation, settings: TrainConfig, out: Path, *, resume: bool, progress: bool
) -> None:
    import torch

    import fusedlm
    from fusedlm.train import fit

    model, batches = task.model.config, task.batches
    for line in task.skipped.lines():
        typer.echo(f"        {line} in {out / DATA}")
    typer.echo(
        f"model   {task.model.num_parameters() / 1e6:.2f} M parameters: {model.layers} +"
        f" {model.decoder_layers} layers, width {model.width}, {model.heads} heads, vocabulary"
        f" {model.vocab_size}\n"
        f"data    {len(batches.rows):,} pairs, {batches.epoch_tokens:,} tokens to train on\n"
        f"run     {settings.steps} steps of {settings.batch * settings.accumulate} tokens"
        f" ({settings.steps * settings.batch * settings.accumulate / batches.epoch_tokens:.0f}"
        f" epochs) in {settings.precision}, {fusedlm.isa()}, {torch.get_num_threads()} threads"
        f" -> {out}"
    )
    result = fit(task, settings, out, resume=resume, progress=progress)
    _report(result, out)


def _report(result: TrainResult, out: Path) -> None:
    if result.interrupted:
        typer.echo(f"stopped and saved at step {result.step}; go on with")
        typer.echo(f"  fusedlm translate train --resume --out {out}")
    best = ", ".join(f"{name} {value:.3f}" for name, value in result.best.items())
    typer.echo(
        f"\nbest model      {result.best_checkpoint}: {best}\n"
        f"speed           {result.tokens_per_second:,.0f} tokens/s, evaluations included\n"
        f"metrics         {result.metrics}\n"
        f"loss curve      {result.curve_png}"
    )
    if not result.interrupted:
        typer.echo(
            f"\nTry next:\n  fusedlm translate eval {out}\n"
            f'  fusedlm translate run {out} "Save the document"'
        )
