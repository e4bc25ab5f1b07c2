"""fusedlm train: a model on one's own text."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
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
    Recompute,
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
from .run_json import check_resumed

# What may be given with --resume.
_ON_RESUME = {
    "text", "out", "resume", "steps", "eval_every", "save_every", "log_every", "recompute", "parallel",
    "threads", "quiet", "config",
}  # fmt: skip

_OF_A_NEW_MODEL = {
    "style", "layers", "width", "heads", "kv_heads", "dropout", "tokenizer", "vocab_size",
}  # fmt: skip


def train(
    context: typer.Context,
    text: Annotated[
        str | None,
        typer.Argument(
            help="A text file, a folder of .txt and .md files, or 'shakespeare'.",
            show_default=False,
        ),
    ] = None,
    out: RunFolder = Path("runs/train"),
    resume: Resume = False,
    style: Annotated[str, typer.Option(help="gpt2 or llama.")] = "llama",
    layers: Annotated[int, typer.Option(min=1, help="Transformer blocks.")] = 6,
    width: Width = 384,
    heads: Heads = 6,
    kv_heads: Annotated[
        int | None,
        typer.Option(min=1, help="Key-value heads, a divisor of --heads.", show_default="heads"),
    ] = None,
    block: Annotated[
        int, typer.Option("--context", min=2, help="Longest sequence in tokens.")
    ] = 256,
    dropout: Dropout = 0.0,
    tokenizer: Annotated[
        str, typer.Option(help="bpe, chars, or the path of a tokenizer.json.")
    ] = "bpe",
    vocab_size: Annotated[int, typer.Option(help="Tokens of a new BPE vocabulary.")] = 4096,
    validation: Annotated[
        float, typer.Option(help="Share of the text, at its end, to validate on.")
    ] = 0.1,
    base: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A model to go on from: a folder, ours or Hugging Face's, or a .gguf file.",
        ),
    ] = None,
    lora: Annotated[
        int | None,
        typer.Option(
            min=1, help="Train adapters of this rank alone (with --from).", metavar="RANK"
        ),
    ] = None,
    lora_alpha: Annotated[
        float | None, typer.Option(help="Their weight times the rank.", show_default="2 RANK")
    ] = None,
    lora_dropout: Annotated[float, typer.Option(min=0, max=0.99, help="Before adapters.")] = 0.0,
    lora_targets: Annotated[
        str | None,
        typer.Option(help="Layers that get one, q_proj,v_proj or the like.", show_default="all"),
    ] = None,
    steps: Steps = 2000,
    batch: Annotated[int, typer.Option(min=1, help="Sequences in a batch.")] = 16,
    accumulate: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Batches per optimizer step, shared by the ranks.",
            show_default="1, or one a rank",
        ),
    ] = None,
    lr: LearningRate = 1e-3,
    min_lr_ratio: MinLrRatio = 0.1,
    warmup: Warmup = 100,
    weight_decay: WeightDecay = 0.1,
    clip: Clip = 1.0,
    precision: Precision = "auto",
    seed: Seed = 0,
    eval_every: EvalEvery = 200,
    eval_batches: Annotated[
        int | None, typer.Option(min=1, help="Batches per validation.", show_default="all")
    ] = None,
    save_every: SaveEvery = 200,
    log_every: LogEvery = 1,
    recompute: Recompute = False,
    parallel: Annotated[
        str,
        typer.Option(
            help="On several ranks (torchrun): ddp, fsdp, or auto: ddp where the model fits each."
        ),
    ] = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    license: License = None,
    data_license: DataLicense = None,
    config: ConfigFile = None,
) -> None:
    """Train a language model on a text.

    Writes the best and the last model, metrics.jsonl and curve.png into --out. Ctrl-C saves and
    ends; --resume goes on as if nothing had happened.

    \b
    Examples:
      fusedlm train my_text.txt --out runs/mine
      fusedlm train shakespeare --style gpt2 --tokenizer chars --steps 5000
      fusedlm train my_text.txt --from SmolLM2.gguf --lora 8 --lr 2e-4 --context 512
      fusedlm train --resume --out runs/mine
      fusedlm train --config settings.yaml
      torchrun --nproc-per-node=2 -m fusedlm train my_text.txt --out runs/mine
    """
    from fusedlm._sharded import rank, ranks
    from fusedlm.train import TrainConfig
    from fusedlm.train.parallel import finish, start
    from fusedlm.train.run_folder import hold

    from .about import about
    from .run import Recipe, again, begin, carry_out

    set_threads(threads)
    start()
    context.with_resource(hold(out))
    # torchrun --max-restarts starts the whole command again after a rank has died.
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    restarted = restarted and (out / "last").exists()
    if resume or restarted:
        if not restarted:
            check_resumed(context, _ON_RESUME)
        how = parallel if "parallel" in given(context) else None
        prepared, settings = again(out, text, how)
        values: dict[str, Any] = {
            "steps": steps,
            "eval_every": eval_every,
            "save_every": save_every,
        }
        values |= {"log_every": log_every, "recompute": recompute, "parallel": parallel}
        settings = replace(settings, **{k: v for k, v in values.items() if k in given(context)})
        recipe = Recipe(text or "", out, progress=not quiet)
        carry_out(prepared, settings, recipe, resume=True)
        finish()
        return
    fixed = sorted(given(context) & _OF_A_NEW_MODEL)
    if base is not None and fixed:
        raise ValueError(
            f"--{fixed[0].replace('_', '-')} cannot be given with --from: the model has its own"
        )
    adapters = None
    if lora is not None:
        if base is None:
            raise ValueError(
                "--lora needs --from: adapters are for a model that is trained already"
            )
        adapters = {
            "rank": lora, "alpha": lora_alpha, "dropout": lora_dropout,
            "targets": lora_targets.split(",") if lora_targets else None,
        }  # fmt: skip
    if text is None:
        raise ValueError("text is missing: give a file, a folder or 'shakespeare' (or --resume)")
    settings = TrainConfig(
        steps=steps, batch=batch, accumulate=accumulate or ranks(), lr=lr, min_lr_ratio=min_lr_ratio,
        warmup=warmup, weight_decay=weight_decay, clip=clip,
        context=block if base is not None else None,
        precision=choose_precision(precision), seed=seed, eval_every=eval_every,
        eval_batches=eval_batches, save_every=save_every, log_every=log_every, recompute=recompute,
        parallel=parallel,
    )  # fmt: skip
    recipe = Recipe(
        text, out, style, tokenizer, vocab_size, validation,
        {
            "layers": layers, "width": width, "heads": heads, "kv_heads": kv_heads,
            "context": block, "dropout": dropout, "tied": True,
        },
        base=base, lora=adapters, progress=not quiet, parallel=parallel,
        about=about(
            text, base=base, license=license, data_license=data_license, **_lora(adapters)
        ),
    )  # fmt: skip
    result = carry_out(begin(recipe, seed), settings, recipe, resume=False)
    if not result.interrupted and rank() == 0:
        typer.echo(f'\nTry next:\n  fusedlm generate {out} "Once"')
    finish()


def _lora(adapters: dict[str, Any] | None) -> dict[str, Any]:
    return {f"lora_{name}": value for name, value in (adapters or {}).items()}
