"""The explained step of AdamW is that of the fused optimizer."""

from __future__ import annotations

import math

import pytest
import torch

from fusedlm.explain import AdamSettings, explain_step
from fusedlm.models import Decoder
from fusedlm.train import TrainConfig
from fusedlm.train.loop import make_optimizer
from tests.explain.test_trace import ENCODERS, small_encoder, some_tokens
from tests.support.small import small_model

STEPS = 3


def pairs(rows: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    ids = some_tokens(rows, 12)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def trained(model, tokens, targets, config: TrainConfig) -> list[float]:
    """Trains `model` itself, fused; the losses before each step."""
    optimizer, losses = make_optimizer(model, config), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        if isinstance(model, Decoder):
            loss = model(tokens, targets)
        else:
            loss = model.classify(tokens, targets=targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("limit", [1.0, None])
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen", "bert, sequence", "roberta, token"])
def test_three_steps_end_at_the_weights_of_the_fused_optimizer(name, limit):
    decoder = name in ("gpt2", "llama", "qwen")
    model = small_model(name) if decoder else small_encoder(ENCODERS[name])
    tokens, targets = pairs(2)
    if not decoder:
        targets = targets % 3 if name.endswith("token") else targets[:, 0] % 3
    settings = AdamSettings(lr=3e-3, weight_decay=0.2, max_grad_norm=limit, eps=1e-5)
    learned = explain_step(model, tokens, targets, settings, steps=STEPS)
    losses = trained(
        model, tokens, targets, TrainConfig(lr=3e-3, weight_decay=0.2, clip=limit, eps=1e-5)
    )
    assert learned.losses[:-1] == pytest.approx(losses, rel=1e-4)
    assert learned.losses[-1] < learned.losses[0]
    for key, parameter in model.named_parameters():
        # At eps 1e-5 a gradient of nearly 0 moves no weight, so that its rounding does not count.
        torch.testing.assert_close(learned.weights[key], parameter.detach(), atol=2e-5, rtol=1e-4)


def test_the_numbers_of_a_weight_follow_from_each_other():
    model, (tokens, targets) = small_model("gpt2"), pairs()
    settings = AdamSettings()
    learned = explain_step(model, tokens, targets, settings, steps=STEPS, dtype=torch.float64)
    assert len(learned.clips) == len(learned.gradient_norms) == STEPS
    beta1, beta2 = settings.betas
    for parameter in learned.parameters:
        m = v = 0.0
        weight = model.get_parameter(parameter.name)[parameter.index].item()
        decay = settings.weight_decay if len(parameter.shape) > 1 else 0.0
        for step, entry in enumerate(parameter.entry, 1):
            m = beta1 * m + (1 - beta1) * entry.gradient
            v = beta2 * v + (1 - beta2) * entry.gradient**2
            assert entry.before == pytest.approx(weight)
            assert (entry.m, entry.v) == pytest.approx((m, v))
            assert entry.m_hat == pytest.approx(m / (1 - beta1**step))
            assert entry.v_hat == pytest.approx(v / (1 - beta2**step))
            pace = entry.m_hat / (math.sqrt(entry.v_hat) + settings.eps)
            assert entry.update == pytest.approx(-settings.lr * (pace + decay * weight))
            weight += entry.update
            assert entry.after == pytest.approx(weight)


def test_the_largest_gradient_of_each_parameter_is_shown_with_its_row():
    model, (tokens, targets) = small_model("llama"), pairs()
    learned = explain_step(model, tokens, targets, numbers=4)
    model(tokens, targets).backward()
    clip = learned.clips[0]
    for parameter in learned.parameters:
        grad = model.get_parameter(parameter.name).grad
        assert parameter.entry[0].gradient == pytest.approx(
            clip * grad[parameter.index].item(), rel=1e-3
        )
        assert abs(grad[parameter.index]) == pytest.approx(grad.abs().max().item(), rel=1e-3)
        assert parameter.gradients == pytest.approx(
            grad[parameter.index[:-1]][:4].tolist(), rel=1e-2, abs=1e-6
        )
        assert parameter.gradient_norm == pytest.approx(grad.norm().item(), rel=1e-3)


def test_frozen_parameters_stay_and_are_not_shown():
    model, (tokens, targets) = small_model("gpt2"), pairs()
    model.embedding.requires_grad_(False)
    learned = explain_step(model, tokens, targets)
    assert not any(p.name.startswith("embedding") for p in learned.parameters)
    assert torch.equal(learned.weights["embedding.weight"], model.embedding.weight)


def test_the_model_itself_does_not_learn():
    model, (tokens, targets) = small_model("llama"), pairs()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explain_step(model, tokens, targets, steps=2)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_settings_that_do_not_fit_are_named():
    model, (tokens, targets) = small_model("gpt2"), pairs()
    with pytest.raises(ValueError, match="lr is 0"):
        AdamSettings(lr=0)
    with pytest.raises(ValueError, match="steps is 0, expected an integer of at least 1"):
        explain_step(model, tokens, targets, steps=0)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="all parameters are frozen"):
        explain_step(model, tokens, targets)
