"""What several commands share: options from a file, threads, precision, finding a model."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from fusedlm.data import Tokenizer
    from fusedlm.generate import LanguageModel
    from fusedlm.models import Decoder

Loaded = TypeVar("Loaded")


def read_options(context: typer.Context, file: Path | None) -> Path | None:
    """Takes the defaults of a command's options from a YAML or TOML file."""
    if file is None:
        return None
    values = _parse(file)
    names = {
        option.lstrip("-").replace("-", "_"): parameter.name
        for parameter in context.command.params
        for option in parameter.opts
        if parameter.name not in ("config", "help")
    }
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in names:
            raise typer.BadParameter(
                f"{file}: unknown option {key!r}, known are {', '.join(sorted(names))}"
            )
        defaults[names[name]] = value
    context.default_map = {**(context.default_map or {}), **defaults}
    return file


def _parse(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise typer.BadParameter(f"{file} is missing")
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix.lower() == ".toml":
            import tomllib

            values = tomllib.loads(text)
        elif file.suffix.lower() in (".yaml", ".yml"):
            import yaml

            values = yaml.safe_load(text) or {}
        else:
            raise typer.BadParameter(f"{file}: expected a .yaml, .yml or .toml file")
    except typer.BadParameter:
        raise
    except Exception as error:  # the parsers have no common exception
        raise typer.BadParameter(f"{file}: {error}") from error
    if not isinstance(values, dict):
        raise typer.BadParameter(f"{file}: expected options by name")
    return values


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Read options from a YAML or TOML file; those on the command line win.",
        callback=read_options,
        is_eager=True,
        show_default=False,
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")]
Precision = Annotated[
    str,
    typer.Option(help="auto, float32 or bfloat16; auto is bfloat16 where the CPU multiplies it."),
]

RunFolder = Annotated[Path, typer.Option(help="Folder for the run.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")]
License = Annotated[
    str | None,
    typer.Option(
        "--license",
        help="Of the model, for its card: mit, cc-by-4.0, ...",
        show_default="not given",
    ),
]
DataLicense = Annotated[
    str | None,
    typer.Option(help="Of the data, for the card.", show_default="what is known of it"),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ResultFile = Annotated[
    Path | None,
    typer.Option(help="Write the numbers there as JSON.", show_default="none", dir_okay=False),
]
ModelFile = Annotated[Path, typer.Argument(help="A model folder, a training run or a .gguf file.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimizer steps.")]
Accumulate = Annotated[int, typer.Option(min=1, help="Batches per optimizer step.")]
LearningRate = Annotated[float, typer.Option(help="Highest learning rate.")]
MinLrRatio = Annotated[float, typer.Option(help="Lowest rate, as a part of --lr.")]
Warmup = Annotated[int, typer.Option(min=0, help="Steps of rising rate.")]
WeightDecay = Annotated[float, typer.Option(help="AdamW's decay of matrices.")]
Clip = Annotated[float, typer.Option(help="Largest global gradient norm.")]
Dropout = Annotated[float, typer.Option(min=0, max=0.99, help="Dropout while training.")]
Width = Annotated[int, typer.Option(min=1, help="Width of the residual stream.")]
Heads = Annotated[int, typer.Option(min=1, help="Attention heads.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of weights and data order.")]
EvalEvery = Annotated[int, typer.Option(min=1, help="Steps between validations.")]
SaveEvery = Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")]
LogEvery = Annotated[int, typer.Option(min=1, help="Steps between lines of metrics.")]
Recompute = Annotated[
    bool, typer.Option("--recompute", help="Less memory, a third more time, the same result.")
]

Format = Annotated[
    str | None,
    typer.Option(
        help="What weights become: bfloat16, int8, q8_0, q4_0, ...",
        show_default="as the file has them",
    ),
]
Temperature = Annotated[
    float, typer.Option(min=0, help="0 takes the likeliest token, 1 draws as trained.")
]
TopK = Annotated[int | None, typer.Option(help="Draw from the k likeliest.")]
TopP = Annotated[
    float | None, typer.Option(help="Draw from the likeliest that make up this share.")
]
MinP = Annotated[
    float | None, typer.Option(help="Leave out tokens this much less likely than the best.")
]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1: repeat less.")]
GuessTokens = Annotated[
    int, typer.Option(min=0, help="Guess so many tokens from what was said; same text, sooner.")
]
CacheTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens that fit the cache, over all texts.", show_default="auto"),
]


def given(context: typer.Context) -> set[str]:
    """Names of the options that the command line or a file sets."""
    sources = {p.name: context.get_parameter_source(p.name) for p in context.command.params}
    return {name for name, source in sources.items() if source and source.name != "DEFAULT"}


def set_threads(threads: int | None) -> None:
    """As told; of several processes that torchrun started on this machine, each gets its part of it."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # Where nobody sets OMP_NUM_THREADS torchrun makes it 1.
    if threads is None and local > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        threads = max(1, len(os.sched_getaffinity(0)) // local)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def lines_of(file: str | Path) -> list[str | None]:
    """The lines of a UTF-8 file, or for "-" of stdin; None for one that is not UTF-8."""
    from fusedlm.data.parallel import decode_lines, read_lines

    if str(file) == "-":
        return list(decode_lines(sys.stdin.buffer, "stdin"))
    return list(read_lines(Path(file)))


def save_result(out: Path | None, result: dict[str, Any]) -> None:
    """Writes what a command measured, whole or not at all."""
    if out is None:
        return
    from fusedlm.models.files import write_json

    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, result)


def choose_precision(precision: str) -> str:
    import fusedlm

    if precision == "auto":
        return "bfloat16" if fusedlm.isa() == "avx512_bf16" else "float32"
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision is {precision!r}, expected auto, float32 or bfloat16")
    return precision


def model_folder(path: Path) -> Path:
    """A model folder, a .gguf file, or the best (else the last) model of a training run."""
    if path.suffix.lower() == ".gguf" and path.is_file():
        return path
    for folder in (path, path / "best", path / "last"):
        if (folder / "config.json").is_file():
            return folder
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a model or a training run")
    raise FileNotFoundError(f"{path} holds neither a model (config.json) nor a training run")


# What people read of a model, by its class, with the command that it is for.
_CLASSES = {
    "Decoder": "a decoder (see `fusedlm generate`)",
    "Encoder": "an encoder (see `fusedlm embed` and `fusedlm classify`)",
    "DecoderClassifier": "a classifier (see `fusedlm classify`)",
    "EncoderDecoder": "an encoder-decoder (see `fusedlm translate`)",
}
# By the kind that its config.json says.
_OTHERS = {
    "encoder": _CLASSES["Encoder"],
    "decoder-classifier": _CLASSES["DecoderClassifier"],
    "encoder-decoder": _CLASSES["EncoderDecoder"],
}


def load_language_model(
    path: Path, precision: str, format: str | None, **options: Any
) -> LanguageModel:
    """A `LanguageModel` of a folder, a training run or a .gguf file."""
    from fusedlm.generate import LanguageModel

    found, dtype = model_folder(path), choose_precision(precision)
    if found.is_dir():
        from fusedlm.models.files import read_json

        kind = read_json(found / "config.json").get("kind")
        if kind in list(_OTHERS):
            raise ValueError(f"{found} holds {_OTHERS[kind]}, expected a language model")
    if format is None and dtype == "bfloat16" and found.is_dir():
        format = "bfloat16"  # half the memory to read, and as computed anyway
    return LanguageModel.load(found, format=format, dtype=dtype, **options)


def load_model(path: Path, precision: str) -> tuple[Decoder, Tokenizer]:
    """(decoder, tokenizer) of a folder, with its compute dtype set."""
    import torch

    from fusedlm.models import Decoder

    model, tokenizer = load_as(model_folder(path), Decoder, "a language model")
    model.compute_dtype = getattr(torch, choose_precision(precision))
    return model, tokenizer


def load_as(folder: Path, kind: type[Loaded], wanted: str) -> tuple[Loaded, Tokenizer]:
    """(model, tokenizer) of a model folder. ValueError where the model is no `kind`, which people know
    as `wanted`, FileNotFoundError where there is no tokenizer."""
    model, tokenizer = load_with_tokenizer(folder)
    if not isinstance(model, kind):
        what = _CLASSES.get(type(model).__name__, "another model")
        raise ValueError(f"{folder} holds {what}, expected {wanted}")
    return model, tokenizer


def load_with_tokenizer(folder: Path) -> tuple[Any, Tokenizer]:
    from fusedlm.models import load

    model, tokenizer = load(folder)
    if tokenizer is None:
        raise FileNotFoundError(f"{folder / 'tokenizer.json'} is missing")
    return model, tokenizer
