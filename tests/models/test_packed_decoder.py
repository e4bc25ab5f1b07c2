"""Several sequences in one row: each is computed as if it were alone."""

from __future__ import annotations

import pytest
import torch

from fusedlm.models.packed import Packed
from tests.support.small import CONFIGS, small_model

LENGTHS = [5, 1, 24, 7]  # together more than the context


def case() -> tuple[list[list[int]], torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    rows = [torch.randint(61, (n,), generator=draw).tolist() for n in LENGTHS]
    targets = torch.randint(61, (sum(LENGTHS),), generator=draw)
    targets[::3] = -100
    return rows, targets


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_loss_and_gradients_are_those_of_each_conversation_alone(name):
    model = small_model(name)
    rows, targets = case()
    packed = Packed.of(rows)
    alone = torch.cat([model(torch.tensor([row]))[0] for row in rows])
    torch.testing.assert_close(model.predict_packed(packed), alone, rtol=1e-4, atol=1e-4)

    loss = model.predict_packed(packed, targets)
    loss.backward()
    found = {n: p.grad.to_dense().clone() for n, p in model.named_parameters()}
    model.zero_grad()
    kept = int((targets != -100).sum())
    total = 0.0
    for row, part in zip(rows, targets.split(LENGTHS), strict=True):
        count = int((part != -100).sum())
        if count:
            total = total + model(torch.tensor([row]), part[None]) * count / kept
    total.backward()
    torch.testing.assert_close(loss, total, rtol=1e-5, atol=1e-5)
    for n, parameter in model.named_parameters():
        expected = parameter.grad.to_dense()
        scale = float(expected.abs().max())
        torch.testing.assert_close(
            found[n], expected, rtol=1e-3, atol=1e-5 * scale, msg=f"{n} differs"
        )


def test_a_change_of_one_conversation_leaves_the_others_bit_for_bit():
    model = small_model("llama")
    rows, _ = case()
    before = model.predict_packed(Packed.of(rows))
    rows[2] = [(token + 1) % 61 for token in rows[2]]
    after = model.predict_packed(Packed.of(rows))
    assert torch.equal(before[:6], after[:6]) and torch.equal(before[30:], after[30:])
    assert not torch.equal(before[6:30], after[6:30])


def test_losses_of_tokens_have_the_mean_that_is_the_loss():
    model = small_model("llama")
    rows, targets = case()
    each = model.predict_packed(Packed.of(rows), targets, reduction="none")
    assert each.shape == ((targets != -100).sum(),)
    torch.testing.assert_close(each.mean(), model.predict_packed(Packed.of(rows), targets))
