"""Small models of Hugging Face transformers with random weights, and their parameters by our names."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fusedlm.models.names import Names

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def random_model(architecture: str, seed: int = 0, **config: Any) -> nn.Module:
    """In eval mode, with sdpa attention; weights are large enough for outputs to differ."""
    torch.manual_seed(seed)
    kind = getattr(transformers, architecture)
    made = kind.config_class(**config, attn_implementation="sdpa", initializer_range=0.15)
    model = kind(made).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def in_float64(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()


def saved(model: nn.Module, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder


def gradients(model: nn.Module, names: Names, ours: list[str]) -> dict[str, Tensor]:
    """The gradients of a Hugging Face model by our names, laid out as ours are."""
    theirs = {n.removeprefix(names.prefix): p.grad for n, p in model.named_parameters()}
    result = {}
    for name in ours:
        parts = [theirs[part] for part in names.of(name)]
        parts = [p.T if names.is_transposed(name, p) else p for p in parts]
        result[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return result
