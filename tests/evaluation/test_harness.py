"""FusedLM as lm-evaluation-harness calls it."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from fusedlm.evaluation import harness
from tests.evaluation.test_likelihood import CONFIGS, by_torch, likelihoods_of
from tests.support.small import small_model

HAS_HARNESS = importlib.util.find_spec("lm_eval") is not None


@pytest.mark.skipif(HAS_HARNESS, reason="lm_eval is installed")
def test_without_the_harness_the_error_says_what_to_install():
    with pytest.raises(ImportError, match="pip install lm_eval"):
        harness.FusedLM("anywhere")


@pytest.mark.skipif(not HAS_HARNESS, reason="lm_eval is not installed")
def test_it_is_a_model_of_the_harness_with_the_decoders_numbers():
    decoder = small_model(CONFIGS["llama"])
    model = harness.FusedLM(likelihoods_of(decoder).model, dtype="float32", progress=False)
    from lm_eval.api.model import LM

    assert isinstance(model, LM)
    check(model, decoder)


def test_requests_are_answered_with_the_decoders_numbers():
    decoder = small_model(CONFIGS["llama"])
    check(
        harness._Requests(likelihoods_of(decoder).model, dtype="float32", progress=False), decoder
    )


def check(model, decoder):
    ask = lambda *args: [SimpleNamespace(args=args)]  # noqa: E731
    ((found, greedy),) = model.loglikelihood(ask("one two", " three"))
    exact = by_torch(decoder, list(b"one two"), list(b" three"))
    assert found == pytest.approx(exact[0], rel=2e-5) and greedy == exact[1]
    (found,) = model.loglikelihood_rolling(ask("a text"))
    assert found == pytest.approx(by_torch(decoder, [256], list(b"a text"))[0], rel=2e-5)
    said = list(b"one")
    with torch.no_grad():
        for _ in range(5):
            said.append(int(decoder(torch.tensor([said]))[0, -1].argmax()))
    (text,) = model.generate_until(ask("one", {"max_gen_toks": 5, "until": []}))
    ended = said[3 : said.index(256)] if 256 in said else said[3:]
    assert text == bytes(ended).decode(errors="replace")
