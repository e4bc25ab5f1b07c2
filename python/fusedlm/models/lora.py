"""Fine-tuning by low-rank adapters: attach, merge, and files in PEFT's format.

    model, tokenizer = load("SmolLM2.gguf")
    add_lora(model, rank=8)              # everything else is frozen
    ...train...
    save_lora(model, "adapter")          # adapter_config.json, adapter_model.safetensors; `peft` loads it
    merge_lora(model)                    # a plain model again, with the adapters inside

Targets are named as Hugging Face names the layers of the family, as in PEFT: q_proj, k_proj, v_proj,
o_proj, gate_proj, up_proj, down_proj (Llama, Qwen, Mistral); attn.c_attn, attn.c_proj, mlp.c_fc,
mlp.c_proj (GPT-2).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fusedlm._sharded import whole
from fusedlm.errors import CorruptFileError
from fusedlm.nn.adapter import Adapter

from .decoder import Decoder
from .fields import is_number
from .files import read_json, write_json
from .folder import atomic_folder
from .huggingface import FAMILIES, family_for, half_split_rows
from .weights import read_tensors, refuse_pickles, write_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_GPT2_TARGETS = ("attn.c_attn",)  # PEFT's choice; of other families it is all of them here
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class _Site:
    """One matrix of the model: where its adapter goes, and what its blocks of rows are called."""

    module: nn.Module
    attribute: str
    weight: str  # attribute of the module
    names: tuple[str, ...]  # full names in transformers, "model.layers.0.self_attn.q_proj"
    rows: tuple[int, ...]
    rotary: tuple[bool, ...]  # whether a block's rows turn with the position

    @property
    def matrix(self) -> nn.Parameter:
        matrix: nn.Parameter = getattr(self.module, self.weight)
        return matrix

    @property
    def adapter(self) -> Adapter | None:
        adapter: Adapter | None = getattr(self.module, self.attribute)
        return adapter


def targets_of(model: Decoder, caller: str = "targets_of") -> tuple[str, ...]:
    """Every name that `add_lora` takes for this model; `caller` is what errors begin with."""
    found: dict[str, None] = {}
    for site in _sites(model, caller):
        found.update(dict.fromkeys(_short(name) for name in site.names))
    return tuple(found)


def add_lora(
    model: Decoder, *, rank: int = 8, alpha: float | None = None, dropout: float = 0.0,
    targets: Sequence[str] | None = None,
) -> Decoder:  # fmt: skip
    """Freezes `model` and attaches adapters, which are its only parameters with gradients then.

    alpha None is 2 rank; targets None are all matrices of the layers (of GPT-2: attn.c_attn), in
    place. Raises ValueError naming the argument that does not fit, or where there are adapters; the
    model is then as it was.
    """
    known = targets_of(model, "add_lora")
    if targets is None:
        targets = _GPT2_TARGETS if family_for(model.config) == "gpt2" else known
    elif isinstance(targets, str) or not isinstance(targets, Iterable):
        raise ValueError(f"add_lora: targets is {targets!r}, expected a list of names")
    targets = list(targets)
    if unknown := [t for t in targets if t not in known]:
        raise ValueError(
            f"add_lora: targets has {unknown[0]!r}, expected some of {', '.join(known)}"
        )
    if not targets:
        raise ValueError(f"add_lora: targets is empty, expected some of {', '.join(known)}")
    names = {n for site in _sites(model, "add_lora") for n in site.names if _short(n) in targets}
    return _attach(model, names, rank, alpha, dropout)


def _attach(
    model: Decoder, names: set[str], rank: int, alpha: float | None, dropout: float
) -> Decoder:
    """`add_lora` for the blocks of rows with these full names. Whatever can fail comes before it freezes."""
    if type(rank) is not int or rank < 1:
        raise ValueError(f"add_lora: rank is {rank!r}, expected an integer of at least 1")
    alpha = 2.0 * rank if alpha is None else alpha
    if not is_number(alpha) or not alpha > 0:
        raise ValueError(f"add_lora: alpha is {alpha!r}, expected a number above 0 or None")
    if not is_number(dropout) or not 0 <= dropout < 1:
        raise ValueError(f"add_lora: dropout is {dropout!r}, expected a number in [0, 1)")
    if has_lora(model):
        raise ValueError("add_lora: the model has adapters already; merge them first")
    made: list[tuple[_Site, Adapter]] = []
    for site in _sites(model, "add_lora"):
        chosen = {_key(name) for name in site.names if name in names}
        if not chosen:
            continue
        rows = {_key(n): r for n, r in zip(site.names, site.rows, strict=True)}
        adapter = Adapter(
            site.matrix.shape[1], rows, chosen, rank=rank, alpha=float(alpha), dropout=dropout
        )
        if not site.matrix.is_meta:
            adapter = adapter.to(site.matrix.device)
        made.append((site, adapter))
    model.requires_grad_(False)
    for site, adapter in made:
        setattr(site.module, site.attribute, adapter)
    return model


def has_lora(model: nn.Module) -> bool:
    return any(isinstance(module, Adapter) for module in model.modules())


def adapted(model: nn.Module) -> Decoder | None:
    """The model itself where it has adapters. ValueError where these are in another than a decoder."""
    if not has_lora(model):
        return None
    if not isinstance(model, Decoder):
        raise ValueError(f"the model with adapters is a {type(model).__name__}, expected a Decoder")
    return model


@torch.no_grad()
def merge_lora(model: Decoder) -> Decoder:
    """Adds the adapters to the weights and takes them off; every parameter gets gradients again."""
    for site in _sites(model, "merge_lora"):
        if site.adapter is not None:
            site.matrix.add_(site.adapter.delta().to(site.matrix.dtype))
    return remove_lora(model)


def remove_lora(model: Decoder) -> Decoder:
    """Takes the adapters off: the model is what it was before."""
    for site in _sites(model, "remove_lora"):
        setattr(site.module, site.attribute, None)
    return model.requires_grad_(True)


def without_adapters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a state dict that belong to the model itself."""
    return {name: value for name, value in state.items() if "adapter." not in name}


@torch.no_grad()
def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the merged model, or of one without adapters; `model` keeps its own."""
    state = without_adapters(model.state_dict())
    decoder = adapted(model)
    if decoder is None:
        return state
    names = {id(parameter): name for name, parameter in decoder.named_parameters()}
    for site in _sites(decoder, "merged_state"):
        if site.adapter is not None:
            state[names[id(site.matrix)]] = whole(site.matrix) + site.adapter.delta()
    return state


def save_lora(model: Decoder, folder: str | os.PathLike[str], *, base: str | None = None) -> None:
    """Writes adapter_config.json and adapter_model.safetensors as PEFT does, replacing an older folder.

    `base` is where the base model is, for whoever loads it. Raises ValueError without adapters.
    """
    with atomic_folder(folder) as new:
        write_lora(new, model, base=base)


def write_lora(folder: Path, model: Decoder, *, base: str | None = None) -> None:
    """The files of `save_lora` in a folder that exists."""
    sites = list(_sites(model, "save_lora"))
    with_adapters = [(site, site.adapter) for site in sites if site.adapter is not None]
    if not with_adapters:
        raise ValueError("save_lora: the model has no adapters; add_lora attaches them")
    weights: dict[str, Tensor] = {}
    names: list[str] = []
    for site, adapter in with_adapters:
        for name, rotary in zip(site.names, site.rotary, strict=True):
            if _key(name) not in adapter.b:
                continue
            b = whole(adapter.b[_key(name)])
            weights[f"{_PREFIX}{name}.lora_A.weight"] = whole(adapter.a[_key(name)])
            weights[f"{_PREFIX}{name}.lora_B.weight"] = _turned(model, b) if rotary else b
            names.append(name)
    _, first = with_adapters[0]
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base,
        "r": first.rank, "lora_alpha": first.alpha, "lora_dropout": first.dropout,
        "target_modules": _modules(names, sites), "bias": "none", "inference_mode": True,
        "fan_in_fan_out": family_for(model.config) == "gpt2",
    }  # fmt: skip
    write_tensors(folder / WEIGHTS, weights)
    write_json(folder / CONFIG, config)


def _modules(names: Sequence[str], sites: Sequence[_Site]) -> list[str]:
    """What PEFT finds these names by: the short ones, and the names themselves where not all layers have it."""
    left_out = {_short(name) for site in sites for name in site.names if name not in names}
    return list(dict.fromkeys(n if _short(n) in left_out else _short(n) for n in names))


def load_lora(model: Decoder, folder: str | os.PathLike[str]) -> Decoder:
    """Attaches the adapters of a folder that `save_lora` or PEFT wrote; the rest is frozen.

    Raises ValueError where the model has adapters, FileNotFoundError, `CorruptFileError` for missing,
    foreign or misshapen tensors, and NotImplementedError for what PEFT knows and we do not (DoRA, biases,
    modules saved whole) and for pickled weights.
    """
    if has_lora(model):
        raise ValueError("load_lora: the model has adapters already; merge or remove them first")
    folder = Path(folder)
    known = [name for site in _sites(model, "load_lora") for name in site.names]
    refuse_pickles(folder, WEIGHTS)
    config, weights = _read_config(folder / CONFIG), read_tensors(folder / WEIGHTS)
    most = max((len(value) for value in weights.values() if value.dim()), default=0)
    if config["r"] > most:  # before anything of that size is made
        raise CorruptFileError(
            folder / CONFIG, f"r is {config['r']}, no tensor has over {most} rows"
        )
    try:
        names = {name for name in known if _asked(name, config["target_modules"])}
        if not names:
            raise ValueError(
                f"target_modules is {config['target_modules']!r}, no names of this model"
            )
        dropout = config.get("lora_dropout") or 0.0
        _attach(model, names, config["r"], config["lora_alpha"], dropout)
    except (ValueError, re.error) as error:  # the second of a target_modules that is no pattern
        raise CorruptFileError(folder / CONFIG, str(error)) from error
    try:
        _fill(model, folder / WEIGHTS, weights)
    except CorruptFileError:
        remove_lora(model)
        raise
    return model


def _read_config(file: Path) -> dict[str, Any]:
    config: dict[str, Any] = read_json(file)
    for name in ("r", "lora_alpha", "target_modules"):
        if config.get(name) is None:
            raise CorruptFileError(file, f"{name} is missing")
    if type(config["r"]) is not int:
        raise CorruptFileError(file, f"r is {config['r']!r}, expected an integer")
    for name in ("lora_alpha", "lora_dropout"):
        if config.get(name) is not None and not is_number(config[name]):
            raise CorruptFileError(file, f"{name} is {config[name]!r}, expected a number")
    modules = config["target_modules"]
    if not isinstance(modules, str) and not (
        isinstance(modules, list) and all(isinstance(name, str) for name in modules)
    ):
        raise CorruptFileError(file, f"target_modules is {modules!r}, expected names")
    expected = {"peft_type": "LORA", "bias": "none"}
    absent = (
        "use_dora", "use_rslora", "modules_to_save", "exclude_modules", "layers_to_transform",
        "rank_pattern", "alpha_pattern", "trainable_token_indices",
    )  # fmt: skip
    for name in (*expected, *absent):
        if (config.get(name) or expected.get(name)) != expected.get(name):
            raise NotImplementedError(
                f"{file}: {name} is {config[name]!r}, which is not known here"
            )
    return config


def _asked(name: str, modules: list[str] | str) -> bool:
    """PEFT's rule: a string is a pattern of whole names, a list has names or what stands at their end."""
    if isinstance(modules, str):
        return modules.lower() == "all-linear" or re.fullmatch(modules, name) is not None
    return any(name == module or name.endswith(f".{module}") for module in modules)


@torch.no_grad()
def _fill(model: Decoder, file: Path, weights: dict[str, Tensor]) -> None:
    for site in _sites(model, "load_lora"):
        if site.adapter is None:
            continue
        for name, rotary in zip(site.names, site.rotary, strict=True):
            for letter, into in (("A", site.adapter.a), ("B", site.adapter.b)):
                if _key(name) not in into:
                    continue
                parameter, key = into[_key(name)], f"{_PREFIX}{name}.lora_{letter}.weight"
                value = weights.pop(key, None)
                if value is None:
                    raise CorruptFileError(file, f"tensor {key!r} is missing")
                if value.shape != parameter.shape or not torch.isfinite(value).all():
                    raise CorruptFileError(
                        file,
                        f"tensor {key!r} has shape {list(value.shape)} or is not finite, expected"
                        f" {list(parameter.shape)}",
                    )
                turned = rotary and letter == "B"
                parameter.copy_(_turned(model, value, back=True) if turned else value)
    if weights:
        raise CorruptFileError(file, f"tensor {min(weights)!r} does not belong to this model")


def _turned(model: Decoder, rows: Tensor, *, back: bool = False) -> Tensor:
    """Rows of queries or keys in the order of Hugging Face, or `back` in the model's."""
    if not model.config.rope_interleaved:
        return rows
    return half_split_rows(rows, model.config.head_width, back=back)


def _sites(model: Decoder, caller: str) -> Iterator[_Site]:
    """ValueError, which begins with `caller`, for a model that is none of a family of transformers."""
    if not isinstance(model, Decoder):
        raise ValueError(f"{caller}: model is a {type(model).__name__}, expected a Decoder")
    names = FAMILIES[family_for(model.config, caller)]
    config = model.config
    parts = [h * config.head_width for h in (config.heads, config.kv_heads, config.kv_heads)]
    block: Any  # of a ModuleList, which does not say that they are of class Block
    for number, block in enumerate(model.blocks):
        for ours, module, attribute, weight in (
            ("attention.qkv.weight", block.attention.qkv, "adapter", "weight"),
            ("attention.out.weight", block.attention.out, "adapter", "weight"),
            ("ffn.gate_weight", block.ffn, "gate_adapter", "gate_weight"),
            ("ffn.up_weight", block.ffn, "up_adapter", "up_weight"),
            ("ffn.down_weight", block.ffn, "down_adapter", "down_weight"),
        ):
            if getattr(module, weight) is None:
                continue
            full = tuple(n.removesuffix(".weight") for n in names.full(f"blocks.{number}.{ours}"))
            split = len(full) == 3
            rows = parts if split else [getattr(module, weight).shape[0]]
            turning = config.position == "rope" and split
            yield _Site(module, attribute, weight, full, tuple(rows),
                        (turning, turning, False) if split else (False,))  # fmt: skip


def _short(name: str) -> str:
    """How targets are called: the last part, or the last two where that is not one of a kind."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].startswith("c_") else parts[-1]


def _key(name: str) -> str:
    """A name for a parameter of the adapter, which may hold no dots."""
    return _short(name).replace(".", "_")
