"""Direct preference optimisation against its formula written out."""

from __future__ import annotations

import math

import pytest
import torch

from fusedlm.data.labelled import Skipped
from fusedlm.models import add_lora
from fusedlm.train import PreferenceTuning, TrainConfig
from fusedlm.train.preference import Pair, read_preferences, reference_log_probs
from tests.support.small import small_model


def some_pairs(count: int = 5) -> list[Pair]:
    draw = torch.Generator().manual_seed(1)

    def row(length: int):
        tokens = torch.randint(61, (length + 1,), generator=draw).tolist()
        return tokens[:-1], [-100] * (length // 2) + tokens[1:][length // 2 :]

    return [Pair(row(5 + i), row(9 - i)) for i in range(count)]


def log_prob(model, row) -> torch.Tensor:
    tokens, targets = row
    scores = model(torch.tensor([tokens]))[0].double().log_softmax(-1)
    return sum(scores[place, t] for place, t in enumerate(targets) if t != -100)


@pytest.mark.parametrize("lora", [False, True])
def test_loss_accuracy_margin_and_gradients_are_the_papers(lora):
    pairs, beta = some_pairs(), 0.3
    first, model = small_model("llama"), small_model("llama")
    if lora:
        add_lora(model, rank=2)
    reference = reference_log_probs(model, pairs, 2)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    task = PreferenceTuning(
        model, None, pairs, pairs, (reference, reference), TrainConfig(batch=5), beta=beta
    )
    loss = task.loss(task.batches.next())
    loss.backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found = {n: p.grad.to_dense().clone() for n, p in trained.items()}
    model.zero_grad()
    margins = []
    for pair in pairs:
        ours = log_prob(model, pair.chosen) - log_prob(model, pair.rejected)
        with torch.no_grad():
            theirs = log_prob(first, pair.chosen) - log_prob(first, pair.rejected)
        margins.append(beta * (ours - theirs))
    expected = sum(-torch.log(1 / (1 + torch.exp(-m))) for m in margins) / len(pairs)
    expected.backward()
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    for name, parameter in trained.items():
        truth = parameter.grad.to_dense()
        scale = float(truth.abs().max())
        torch.testing.assert_close(found[name], truth, rtol=5e-3, atol=1e-4 * scale)
    numbers = task.evaluate()
    right = sum(float(m) > 0 for m in margins) / len(pairs)
    assert numbers["val_accuracy"] == pytest.approx(right)
    assert numbers["val_margin"] == pytest.approx(float(sum(margins)) / len(pairs), rel=1e-3)


def test_the_model_itself_has_the_loss_log_2():
    pairs = some_pairs()
    model = small_model("gpt2")
    reference = reference_log_probs(model, pairs, 5)
    task = PreferenceTuning(model, None, pairs, pairs, (reference, reference), TrainConfig(batch=5))
    numbers = task.evaluate()
    assert numbers["val_loss"] == pytest.approx(math.log(2)) and numbers["val_accuracy"] == 0.5


def test_pairs_that_cannot_be_used_are_counted(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text(
        '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
        '{"prompt": [{"role": "user", "content": "a"}],'
        ' "chosen": [{"role": "assistant", "content": "b"}], "rejected": "c"}\n'
        '{"prompt": "a", "chosen": "b", "rejected": "b"}\n'
        '{"prompt": "a", "chosen": "b"}\n{"prompt": "a", "chosen": "", "rejected": "c"}\n[\n'
        '{"prompt": "a", "chosen": [{"role": "user", "content": "b"}], "rejected": "c"}\n'
    )
    skipped = Skipped()
    rows = read_preferences(str(file), skipped)
    asked = [{"role": "user", "content": "a"}]
    assert rows == [(asked, "b", "c", f"{file}:{line}") for line in (1, 2)]
    assert skipped.first["chosen and rejected are the same"].endswith("p.jsonl:3")
    assert skipped.first["chosen ends with a message that is not the assistant's"].endswith(":7")
    assert sum(skipped.counts.values()) == 5
