"""fusedlm tune: a model taught by conversations, or by preferences between answers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .about import about
from .options import (
    Accumulate,
    ConfigFile,
    DataLicense,
    License,
    Precision,
    Quiet,
    Recompute,
    Resume,
    RunFolder,
    Threads,
    WeightDecay,
    choose_precision,
    set_threads,
)
from .run_json import check_resumed, must_be_free, recall, remember

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedlm.data.labelled import Skipped
    from fusedlm.train import TrainConfig, TrainResult

_ON_RESUME = {"out", "resume", "threads", "quiet", "config"}


@dataclass(frozen=True)
class Run:
    """What a run is made of; run.json remembers it."""

    data: str
    base: str
    kind: str  # "chat" or "preferences"
    validation: float
    epochs: float
    context: int
    samples: int
    max_new_tokens: int
    beta: float
    lora: dict[str, Any] | None


def tune(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(
            help="A .jsonl, .json or .yml file, a folder of them, or 'chatterbot' (the installed corpus).",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            "--from", help="The model: a folder, ours or Hugging Face's, or a .gguf file."
        ),
    ] = None,
    out: RunFolder = Path("runs/tune"),
    resume: Resume = False,
    preferences: Annotated[
        bool,
        typer.Option("--preferences", help="The data has prompt, chosen and rejected: DPO."),
    ] = False,
    beta: Annotated[
        float, typer.Option(help="With --preferences: how near the first model it stays.")
    ] = 0.1,
    lora: Annotated[
        int | None, typer.Option(min=1, help="Train adapters of this rank alone.", metavar="RANK")
    ] = None,
    validation: Annotated[float, typer.Option(help="Share of first questions to hold out.")] = 0.1,
    block: Annotated[
        int, typer.Option("--context", min=2, help="Longer conversations are left out.")
    ] = 1024,
    epochs: Annotated[float, typer.Option(help="Times that all is seen.")] = 3.0,
    batch: Annotated[int, typer.Option(min=1, help="Conversations in a batch.")] = 16,
    accumulate: Accumulate = 1,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Highest learning rate.",
            show_default="2e-4 with --lora, else 2e-5; a tenth with --preferences",
        ),
    ] = None,
    weight_decay: WeightDecay = 0.0,
    samples: Annotated[
        int, typer.Option(min=0, help="Questions held out to show answers to, before and after.")
    ] = 4,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of such an answer.")] = 48,
    recompute: Recompute = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of adapters and data order.")] = 0,
    precision: Precision = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    license: License = None,
    data_license: DataLicense = None,
    config: ConfigFile = None,
) -> None:
    """Fine-tune a language model on conversations, or by preferences (DPO).

    The loss counts on the assistant's answers alone. Rows are {"messages": [...]} (OpenAI),
    {"conversations": [...]} (ShareGPT), {"instruction", "input", "output"} (Alpaca) or the YAML of
    chatterbot-corpus; with --preferences {"prompt", "chosen", "rejected"}. What cannot be used is left
    out and counted. Writes best and last model, metrics.jsonl, curve.png and answers.json into --out.

    \b
    Examples:
      fusedlm tune chatterbot --from SmolLM2.gguf --lora 8 --out runs/talk
      fusedlm tune my_chats.jsonl --from models/mine --epochs 2
      fusedlm tune pairs.jsonl --preferences --from runs/talk --lora 8 --out runs/preferred
      fusedlm tune --resume --out runs/talk
    """
    from fusedlm.train import TrainConfig, load_checkpoint
    from fusedlm.train.run_folder import hold

    set_threads(threads)
    context.with_resource(hold(out))
    if resume:
        check_resumed(context, _ON_RESUME)
        run = recall(out, "tune", lambda values: Run(**values))
        checkpoint = load_checkpoint(out / "last")
        _carry_out(run, out, checkpoint.config, checkpoint.model, checkpoint.tokenizer, not quiet)
        return
    if data is None or base is None:
        missing = "data is" if data is None else "--from is"
        raise ValueError(f"{missing} missing (or give --resume)")
    if not 0 < epochs < math.inf:
        raise ValueError(f"epochs is {epochs}, expected a number above 0")
    must_be_free(out, "tune")
    if lr is None:
        lr = (2e-4 if lora else 2e-5) / (10 if preferences else 1)
    run = Run(
        data if not Path(data).exists() else str(Path(data).absolute()), str(base.absolute()),
        "preferences" if preferences else "chat", validation, epochs, block, samples,
        max_new_tokens, beta, {"rank": lora} if lora else None,
    )  # fmt: skip
    settings = TrainConfig(
        batch=batch, accumulate=accumulate, lr=lr, weight_decay=weight_decay,
        precision=choose_precision(precision), seed=seed, recompute=recompute,
    )  # fmt: skip
    model, tokenizer = _start(run, seed)
    said = about(
        data, base=base, license=license, data_license=data_license, kind=run.kind, epochs=epochs,
        longest_conversation=block, lora_rank=lora, beta=beta if preferences else None,
    )  # fmt: skip
    remember(out, asdict(run), said)
    _carry_out(run, out, settings, model, tokenizer, not quiet, resume=False)


def _start(run: Run, seed: int) -> tuple[Any, Any]:
    import torch

    from fusedlm.models import Decoder, add_lora
    from fusedlm.train.answer_tokens import with_template

    from .options import load_as, model_folder

    folder = model_folder(Path(run.base))
    model, tokenizer = load_as(folder, Decoder, "a language model")
    if not tokenizer.settings.get("chat_template"):
        tokenizer = with_template(tokenizer)
        typer.echo(f"{folder} has no chat template; a plain one is kept with the new model")
    torch.manual_seed(seed)
    if run.lora is not None:
        add_lora(model, **run.lora)
    return model, tokenizer


def _carry_out(
    run: Run, out: Path, settings: TrainConfig, model: Any, tokenizer: Any, progress: bool,
    *, resume: bool = True,
) -> None:  # fmt: skip
    from dataclasses import replace

    from fusedlm.data.labelled import Skipped
    from fusedlm.train import fit
    from fusedlm.train.answer_tokens import AnswerTokens

    skipped = Skipped()
    answers = AnswerTokens(
        tokenizer, min(run.context, model.config.context), model.config.ignore_index
    )
    make = _chat_task if run.kind == "chat" else _preference_task
    task, held, count = make(run, out, settings, model, tokenizer, answers, skipped)
    for line in skipped.lines():
        typer.echo(line)
    steps = math.ceil(run.epochs * count / (settings.batch * settings.accumulate))
    each = max(1, math.ceil(steps / math.ceil(run.epochs)))
    settings = replace(
        settings, steps=steps, warmup=min(steps // 10, 100), eval_every=each, save_every=each
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    typer.echo(
        f"{count:,} to learn from, {steps} steps; {trained / 1e6:.2f} M parameters of"
        f" {model.num_parameters() / 1e6:.2f} M are trained"
    )
    file = out / "answers.json"
    before = None
    if not resume:
        task.prepare(settings)  # the precision of the evaluations to come
        before = task.evaluate()
        _show_before(run, file, held, tokenizer, model, settings, before)
    result = fit(task, settings, out, resume=resume, progress=progress, before=before)
    if result.interrupted:
        typer.echo(f"stopped and saved at step {result.step}; `fusedlm tune --resume --out {out}`")
        return
    _show_after(run, file, result, settings)


def _chat_task(
    run: Run, out: Path, settings: TrainConfig, model: Any, tokenizer: Any, answers: Any,
    skipped: Skipped,
) -> tuple[Any, list[Any], int]:  # fmt: skip
    from fusedlm.data.conversations import read_placed, split_by_question
    from fusedlm.train import ChatTuning

    placed = read_placed(run.data, skipped)
    place_of = {id(messages): where for messages, where in placed}
    parts = split_by_question([messages for messages, _ in placed], run.validation)
    train_data, val_data = (
        answers.encode_all(part, skipped, name, [place_of[id(messages)] for messages in part])
        for part, name in zip(parts, ("training", "held-out"), strict=True)
    )
    held = [messages for messages in parts[1] if _can_be_used(answers, messages)]
    return ChatTuning(model, tokenizer, train_data, val_data, settings), held, len(train_data.rows)


def _can_be_used(answers: Any, messages: Any) -> bool:
    try:
        answers.encode(messages, last=True)
    except ValueError:
        return False
    return True


def _preference_task(
    run: Run, out: Path, settings: TrainConfig, model: Any, tokenizer: Any, answers: Any,
    skipped: Skipped,
) -> tuple[Any, list[Any], int]:  # fmt: skip
    import torch

    from fusedlm.data.conversations import split_by_question
    from fusedlm.train import preference

    rows = preference.read_preferences(run.data, skipped)
    told = [[*row.asked, {"role": "assistant", "content": row.chosen}] for row in rows]
    pair_of = {id(messages): row for messages, row in zip(told, rows, strict=True)}
    parts = split_by_question(told, run.validation)
    train, held = (
        preference.encode_pairs([pair_of[id(m)] for m in part], answers, skipped, name)
        for part, name in zip(parts, ("training", "held-out"), strict=True)
    )
    file = out / "reference.safetensors"
    if (out / "last").exists():  # of a run that goes on; a file without one is of another start
        references = preference.load_references(file, len(train), len(held))
    else:
        model.compute_dtype = getattr(torch, settings.precision)
        of_train, of_held = (
            preference.reference_log_probs(model, pairs, settings.batch) for pairs in (train, held)
        )
        references = (of_train, of_held)
        preference.save_references(file, *references)
    task = preference.PreferenceTuning(
        model, tokenizer, train, held, references, settings, beta=run.beta
    )
    return task, [told for told in parts[1] if _can_be_used(answers, told)], len(train)


def _show_before(
    run: Run, file: Path, held: list[Any], tokenizer: Any, model: Any, settings: TrainConfig,
    numbers: Mapping[str, float],
) -> None:  # fmt: skip
    """Answers of the model as it is, which a comparison afterwards needs."""
    from fusedlm.models.files import write_json

    rows = _questions(held, run.samples)
    answers = _answers(model, tokenizer, file, [r["messages"] for r in rows], run, settings)
    for row, answer in zip(rows, answers, strict=True):
        row["before"] = answer
    write_json(file, {"before": numbers, "answers": rows})


def _show_after(run: Run, file: Path, result: TrainResult, settings: TrainConfig) -> None:
    from fusedlm.models import load
    from fusedlm.models.files import read_json, write_json

    report = read_json(file)
    model, tokenizer = load(result.best_checkpoint)
    questions = [row["messages"] for row in report["answers"]]
    answers = _answers(model, tokenizer, file, questions, run, settings)
    for row, answer in zip(report["answers"], answers, strict=True):
        row["after"] = answer
        typer.echo(f"\n> {row['messages'][-1]['content']}")
        for name in ("before", "after", "expected"):
            typer.echo(f"  {name:8} {' '.join(row[name].split())}")
    report["after"] = result.best
    write_json(file, report)
    for name, value in result.best.items():
        typer.echo(f"{name:16} {report['before'].get(name, math.nan):.4f} -> {value:.4f}")
    typer.echo(
        f"speed            {result.tokens_per_second:,.0f} tokens/s, evaluations included\n"
        f"best model       {result.best_checkpoint}\nmetrics          {result.metrics}\n"
        f"loss curve       {result.curve_png}\nanswers          {file}\n"
        f"\nTry next:\n  fusedlm chat {result.best_checkpoint}"
    )


def _questions(held: list[Any], count: int) -> list[dict[str, Any]]:
    """The first questions of some conversations held out, spread over them, each once."""
    first: dict[str, tuple[Any, str]] = {}
    for messages in held:
        turn = next(i for i, m in enumerate(messages) if m["role"] == "assistant")
        first.setdefault(
            messages[turn - 1]["content"], (messages[:turn], messages[turn]["content"])
        )
    found = list(first.values())
    count = min(count, len(found))
    chosen = [found[i * len(found) // count] for i in range(count)]
    return [{"messages": asked, "expected": answer} for asked, answer in chosen]


def _answers(
    model: Any, tokenizer: Any, file: Path, questions: list[Any], run: Run, settings: TrainConfig
) -> list[str]:
    """The likeliest answers, on the engine."""
    import tempfile

    from fusedlm.generate import LanguageModel
    from fusedlm.models.io import write_model

    if not questions:
        return []
    with tempfile.TemporaryDirectory(prefix=".answers-", dir=file.parent) as folder:
        write_model(Path(folder), model, tokenizer, merged=True)
        loaded = LanguageModel.load(folder, dtype=settings.precision, most_running=4)
        prompts = [loaded.encode_chat(messages) for messages in questions]
        found = loaded.generate(prompts, max_new_tokens=run.max_new_tokens, temperature=0.0)
    assert isinstance(found, list)  # as many as prompts
    return [answer.text for answer in found]
