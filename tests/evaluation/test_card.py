"""Model cards and the cost of a run; perplexity in units of any tokenizer."""

from __future__ import annotations

import json
import math

import pytest
import torch
import yaml

from fusedlm.data import pack_text, train_chars
from fusedlm.evaluation import model_card, text_loss
from fusedlm.evaluation.card import write_card
from fusedlm.models import Decoder, ModelConfig
from fusedlm.train import TrainConfig, train
from fusedlm.train.record import EnergyMeter

TEXT = "a stitch in time saves nine; " * 20
TOKENIZER = train_chars(TEXT)
DATA = pack_text(TEXT, TOKENIZER)


def model() -> Decoder:
    torch.manual_seed(7)
    config = ModelConfig.llama(
        vocab_size=TOKENIZER.vocab_size, layers=1, width=16, heads=2, context=12
    )
    return Decoder(config)


def run(out, resume=False, steps=2):
    config = TrainConfig(steps=steps, batch=2, eval_every=1, save_every=1, eval_batches=2)
    halves = DATA.split(0.2)
    return train(model(), TOKENIZER, *halves, config, out, resume=resume, progress=False)


def test_a_card_lies_beside_the_best_and_the_last_model(tmp_path):
    run(tmp_path / "mine")
    for name in ("best", "last"):
        text = (tmp_path / "mine" / name / "README.md").read_text()
        front = yaml.safe_load(text.split("---\n")[1])
        assert front["pipeline_tag"] == "text-generation" and front["library_name"] == "fusedlm"
        training = json.loads((tmp_path / "mine" / name / "training.json").read_text())
        assert training["data"]["training_tokens"] == len(DATA.split(0.2)[0])
        for part in ("# mine", training["data"]["fingerprint"], "val loss", "CPU time", "torch"):
            assert part in text


def test_a_resumed_run_counts_the_time_before(tmp_path):
    run(tmp_path / "r")
    first = json.loads((tmp_path / "r/last/training.json").read_text())["cost"]
    first["seconds"] += 1000
    file = tmp_path / "r/last/training.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "cost": first}))
    run(tmp_path / "r", resume=True, steps=3)
    assert json.loads(file.read_text())["cost"]["seconds"] > 1000


def test_energy_is_measured_or_an_estimate_that_says_so_or_not_measured(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    def card(cost, **given):
        (tmp_path / "training.json").write_text(json.dumps({"cost": cost}))
        return model_card(tmp_path, **given)

    cost = {"seconds": 60, "cpu_seconds": 100, "joules": None, "processes": 1}
    assert "| energy | not measured |" in card(cost)
    assert "1,000 J (0.0002778 kWh), an estimate and not a measurement: 100 CPU" in card(
        cost, watts_per_core=10
    )
    assert "| energy | 500 J (0.0001389 kWh), measured" in card({**cost, "joules": 500})


def test_what_only_people_know_can_be_added(tmp_path):
    run(tmp_path / "mine")
    write_card(tmp_path / "mine/best", license="mit", data_license="cc0-1.0")
    text = (tmp_path / "mine/best/README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "mit"
    assert "| licence | cc0-1.0 |" in text


def test_the_counters_of_packages_are_added_and_may_overflow(tmp_path):
    def write(package, name, value):
        (tmp_path / package).mkdir(exist_ok=True)
        (tmp_path / package / name).write_text(f"{value}\n")

    for package in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        write(package, "energy_uj", 900)
        write(package, "max_energy_range_uj", 1000)
    meter = EnergyMeter(tmp_path)
    write("intel-rapl:0", "energy_uj", 950)
    write("intel-rapl:1", "energy_uj", 100)
    assert meter.joules() == pytest.approx(250e-6)
    assert EnergyMeter(tmp_path / "nothing").joules() is None


@pytest.mark.parametrize("stride", [None, 1, 5])
def test_strided_loss_is_that_of_each_token_with_the_context_that_fits(stride):
    subject, ids = model().eval(), DATA.ids.tolist()
    nats, done = 0.0, 1
    parts: dict[int, list[float]] = {1: [], 2: [], 3: [], 5: [], 9: []}
    with torch.no_grad():
        while done < len(ids):
            end = min(len(ids), done + (12 if done == 1 or stride is None else stride))
            start = max(0, end - 13)
            logits = subject(torch.tensor([ids[start : end - 1]]))[0]
            found = logits.double().log_softmax(-1)[done - start - 1 :]
            losses = -found.gather(1, torch.tensor(ids[done:end])[:, None])[:, 0]
            nats += float(losses.sum())
            for before, loss in enumerate(losses.tolist(), done - start):
                parts[max(first for first in parts if first <= before)].append(loss)
            done = end
    result = text_loss(subject, TOKENIZER, DATA, batch=3, stride=stride)
    rest = TEXT[1:]
    assert result["loss"] == pytest.approx(nats / (len(ids) - 1), rel=1e-5)
    assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(rest), rel=1e-5)
    assert [(part["first"], part["last"]) for part in result["by_position"]] == [
        (1, 1), (2, 2), (3, 4), (5, 8), (9, 12),
    ]  # fmt: skip
    for part in result["by_position"]:
        wanted = parts[part["first"]]
        assert part["tokens"] == len(wanted)
        assert part["loss"] == pytest.approx(sum(wanted) / len(wanted), rel=1e-5)
    assert result["word_perplexity"] == pytest.approx(math.exp(nats / len(rest.split())), rel=1e-4)


def test_a_stride_beyond_the_context_is_an_error():
    with pytest.raises(ValueError, match="stride is 13, expected 1 to the context of 12"):
        text_loss(model(), TOKENIZER, DATA, stride=13)
