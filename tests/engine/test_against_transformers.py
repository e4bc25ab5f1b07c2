"""The engine's logits on folders that `transformers` wrote, against `transformers` in float64."""

from __future__ import annotations

import copy

import pytest
import torch

from fusedlm import _core
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.engine import logits_of
from tests.support.hugging import in_float64, random_model, saved
from tests.support.hugging_decoders import CASES

V = 61
# Many tokens go another way through the engine than up to 16 do, and one follows what lies in the cache.
PIECES = [23, 16, 1]


def tokens() -> list[int]:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(V, (sum(PIECES),), generator=generator).tolist()


@torch.no_grad()
def logits_of_theirs(model: torch.nn.Module) -> torch.Tensor:
    return model(torch.tensor([tokens()])).logits[0]


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def theirs(request):
    architecture, config = request.param
    return random_model(architecture, **config)


@pytest.fixture(params=["whole", "sharded"])
def model(request, theirs, tmp_path):
    limit = {"max_shard_size": "10KB"} if request.param == "sharded" else {}
    folder = saved(theirs, tmp_path / "m", **limit)
    assert (len(list(folder.glob("*.safetensors"))) > 3) == (request.param == "sharded")
    return _core.Model.load(str(folder))


def test_logits_in_float32_are_as_close_as_theirs(theirs, model):
    ours = logits_of(_core.Engine(model, dtype="float32"), tokens(), PIECES, V)
    exact = logits_of_theirs(in_float64(theirs))
    assert_as_accurate_as_torch(ours, logits_of_theirs(theirs), exact, "logits")


def test_logits_in_bfloat16_are_as_close_as_theirs(theirs, model):
    ours = logits_of(_core.Engine(model), tokens(), PIECES, V)
    rounded = logits_of_theirs(copy.deepcopy(theirs).bfloat16()).float()
    assert_as_accurate_as_torch(ours, rounded, logits_of_theirs(in_float64(theirs)), "logits")
