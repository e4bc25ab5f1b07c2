"""Decoders written as GGUF run in the engine, from the file's own bytes."""

from __future__ import annotations

import pytest
import torch

from fusedlm import _core
from fusedlm.models import Decoder, export_gguf, load
from tests.support.engine import logits_of
from tests.support.gguf_decoders import KINDS, model_of

gguf = pytest.importorskip("gguf")

V = 300
PIECES = [20, 11, 1]


def assert_the_engine_gives_its_logits(decoder: Decoder, model) -> None:
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(V, (sum(PIECES),), generator=generator).tolist()
    ours = logits_of(_core.Engine(model, dtype="float32"), tokens, PIECES, V)
    with torch.no_grad():
        expected = decoder(torch.tensor([tokens]))[0]
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def spread_model(kind: str, **fields) -> Decoder:
    model = model_of(kind, V, **fields)
    for parameter in model.parameters():  # biases and norms are not all 0 and 1
        parameter.normal_(std=0.15) if parameter.dim() > 1 else parameter.add_(
            0.1 * torch.randn_like(parameter)
        )
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_has_the_decoders_logits(kind, tmp_path):
    model = spread_model(kind)
    export_gguf(model, None, tmp_path / "m.gguf", "float32")
    assert_the_engine_gives_its_logits(model, _core.Model.load(str(tmp_path / "m.gguf")))


@pytest.mark.parametrize("format", ["q4_0", "q4_1", "q8_0", "q4_k", "q6_k"])
def test_every_format_has_the_logits_of_what_the_file_holds(format, tmp_path):
    written = export_gguf(spread_model("llama", width=256), None, tmp_path / "m.gguf", format)
    assert not written.fallbacks  # rows of 256 are whole blocks of every format
    assert written.formats["blk.0.ffn_down.weight"] == format
    model = _core.Model.load(str(tmp_path / "m.gguf"))
    assert model.bytes < model.parameters * {"q8_0": 1.2, "q6_k": 1.0}.get(format, 0.8)
    assert_the_engine_gives_its_logits(load(tmp_path / "m.gguf")[0], model)
