"""A training run from text to checkpoint: what `train` and `quickstart` have in common."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fusedlm._sharded import rank, ranks

from .run_json import must_be_free, recall, remember

if TYPE_CHECKING:
    from fusedlm.data import PackedData, Tokenizer
    from fusedlm.models import Decoder
    from fusedlm.train import TrainConfig, TrainResult


@dataclass(frozen=True)
class Recipe:
    """What a run is made of. `model` holds fields of ModelConfig beyond the vocabulary size."""

    text: str
    out: Path
    style: str = "llama"
    tokenizer: str = "bpe"
    vocab_size: int = 1024
    validation: float = 0.1
    model: dict[str, Any] = field(default_factory=dict)
    base: Path | None = None  # a model to go on from, whose tokenizer and shape hold then
    lora: dict[str, Any] | None = None  # arguments of add_lora; None trains every weight
    progress: bool = True
    parallel: str = "auto"  # as in TrainConfig
    about: dict[str, Any] = field(default_factory=dict)  # for the model card


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs, from new or from a checkpoint."""

    model: Decoder
    tokenizer: Tokenizer
    train_data: PackedData
    val_data: PackedData
    bigram: float


def begin(recipe: Recipe, seed: int) -> Prepared:
    """Text -> tokenizer -> tokens -> a new model; remembers in out/run.json where the text is."""
    import torch

    from fusedlm.data import Tokenizer, load_corpus, train_bpe, train_chars
    from fusedlm.models import Decoder, ModelConfig
    from fusedlm.train.parallel import gets_parts

    must_be_free(recipe.out, "train")
    text = load_corpus(recipe.text)
    if recipe.base is not None:
        return _keep(recipe, _from_base(recipe, text, seed))
    if recipe.tokenizer == "bpe":
        tokenizer = train_bpe(text, recipe.vocab_size)
    elif recipe.tokenizer == "chars":
        tokenizer = train_chars(text)
    elif Path(recipe.tokenizer).is_file():
        tokenizer = Tokenizer.load(recipe.tokenizer)
    else:
        raise ValueError(
            f"tokenizer is {recipe.tokenizer!r}, expected bpe, chars or a tokenizer.json"
        )
    presets = {"gpt2": ModelConfig.gpt2, "llama": ModelConfig.llama}
    if recipe.style not in presets:
        raise ValueError(f"style is {recipe.style!r}, expected gpt2 or llama")
    config = presets[recipe.style](vocab_size=tokenizer.vocab_size, **recipe.model)
    torch.manual_seed(seed)
    parts = gets_parts(Decoder.empty(config), recipe.parallel)
    model = Decoder.empty(config) if parts else Decoder(config)
    return _keep(recipe, _pack(text, tokenizer, model, recipe.validation))


def _from_base(recipe: Recipe, text: str, seed: int) -> Prepared:
    import torch

    from fusedlm.models import Decoder, add_lora

    from .options import load_as, model_folder

    assert recipe.base is not None
    model, tokenizer = load_as(model_folder(recipe.base), Decoder, "a language model")
    torch.manual_seed(seed)
    if recipe.lora is not None:
        add_lora(model, **recipe.lora)
    return _pack(text, tokenizer, model, recipe.validation)


def _keep(recipe: Recipe, prepared: Prepared) -> Prepared:
    """Remembers in out/run.json where the text is."""
    if rank() > 0:
        return prepared
    origin = recipe.text if not Path(recipe.text).exists() else os.path.abspath(recipe.text)
    values = {"text": str(origin), "validation": recipe.validation}
    remember(recipe.out, values, recipe.about)
    return prepared


def again(out: Path, text: str | None, parallel: str | None) -> tuple[Prepared, TrainConfig]:
    """The run in `out`, ready to go on from its last checkpoint, `parallel` or as it was."""
    from fusedlm.data import load_corpus
    from fusedlm.train import load_checkpoint

    kept_text, share = recall(out, "train", lambda values: (values["text"], values["validation"]))
    checkpoint = load_checkpoint(out / "last", parallel)
    if checkpoint.tokenizer is None:
        raise FileNotFoundError(f"{out / 'last' / 'tokenizer.json'} is missing")
    source = load_corpus(text or kept_text)
    prepared = _pack(source, checkpoint.tokenizer, checkpoint.model, share)
    return prepared, checkpoint.config


def _pack(text: str, tokenizer: Tokenizer, model: Decoder, validation: float) -> Prepared:
    from fusedlm.data import bigram_loss, pack_text

    data = pack_text(text, tokenizer)
    train_data, val_data = data.split(validation)
    if len(train_data) < 2 or len(val_data) < 2:
        raise ValueError(
            f"the text has {len(data)} tokens, too few to split off {validation:.0%} for validation"
        )
    return Prepared(model, tokenizer, train_data, val_data, bigram_loss(train_data, val_data))


def describe(prepared: Prepared, config: TrainConfig, out: Path) -> None:
    import torch

    import fusedlm

    model = prepared.model.config
    if rank() > 0:
        return
    typer.echo(
        f"model   {prepared.model.num_parameters() / 1e6:.2f} M parameters{_trained(prepared.model)}:"
        f" {model.layers} layers,"
        f" width {model.width}, {model.heads} heads, context {model.context},"
        f" vocabulary {model.vocab_size}\n"
        f"data    {len(prepared.train_data):,} tokens to train on,"
        f" {len(prepared.val_data):,} to validate\n"
        f"run     {config.steps} steps of {config.batch * config.accumulate} x"
        f" {config.context or model.context} tokens in {config.precision}, {fusedlm.isa()},"
        f" {_processes()}{torch.get_num_threads()} threads -> {out}"
    )


def _processes() -> str:
    return f"{ranks()} ranks with " if ranks() > 1 else ""


def _trained(model: Decoder) -> str:
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return "" if count == model.num_parameters() else f", {count / 1e6:.2f} M of them trained"


def carry_out(prepared: Prepared, config: TrainConfig, recipe: Recipe, resume: bool) -> TrainResult:
    from fusedlm.train import train

    describe(prepared, config, recipe.out)
    result = train(
        prepared.model, prepared.tokenizer, prepared.train_data, prepared.val_data, config,
        recipe.out, resume=resume, progress=recipe.progress,
        baselines={"bigram": prepared.bigram},
    )  # fmt: skip
    report(result, prepared.bigram, recipe.out)
    return result


def report(result: TrainResult, bigram: float, out: Path) -> None:
    if rank() > 0:
        return
    if result.interrupted:
        typer.echo(f"stopped and saved at step {result.step}; go on with")
        typer.echo(f"  fusedlm train --resume --out {out}")
    from fusedlm.evaluation.perplexity import perplexity_of

    best = result.best["val_loss"]
    typer.echo(
        f"\nvalidation loss {best:.3f} nats per token (perplexity {perplexity_of(best):.1f});"
        f" a bigram model reaches {bigram:.3f} ({perplexity_of(bigram):.1f})\n"
        f"speed           {result.tokens_per_second:,.0f} tokens/s, evaluations included\n"
        f"best model      {result.best_checkpoint}\n"
        f"last checkpoint {result.last_checkpoint}\n"
        f"metrics         {result.metrics}\n"
        f"loss curve      {result.curve_png}"
    )
