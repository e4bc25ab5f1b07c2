"""The loop: what it writes, that it resumes exactly, and what it does when things go wrong."""

from __future__ import annotations

import errno
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fusedlm.data import PackedData, pack_text, train_chars
from fusedlm.errors import CorruptFileError
from fusedlm.models import Decoder, Encoder, EncoderConfig, ModelConfig, add_lora, load, load_lora
from fusedlm.train import (
    LanguageModelling,
    TrainConfig,
    evaluate,
    fit,
    learning_rate,
    read_metrics,
    train,
)
from fusedlm.train import checkpoint as checkpoints
from fusedlm.train.loop import make_optimizer

TEXT = "a stitch in time saves nine; " * 150
TOKENIZER = train_chars(TEXT)
TRAIN, VALIDATION = pack_text(TEXT, TOKENIZER).split(0.2)
CONFIG = TrainConfig(steps=8, batch=3, lr=3e-3, warmup=2, eval_every=2, save_every=2)


def model(**changes) -> Decoder:
    torch.manual_seed(7)
    shape = {"layers": 2, "width": 32, "heads": 2, "context": 24, "dropout": 0.1, **changes}
    return Decoder(ModelConfig.llama(vocab_size=TOKENIZER.vocab_size, **shape))


def run(out: Path, config: TrainConfig = CONFIG, *, data: PackedData = TRAIN, **options):
    """Trains a new model into `out`."""
    options.setdefault("progress", False)
    subject = options.pop("model", None) or model()
    return train(subject, TOKENIZER, data, VALIDATION, config, out, **options)


def contents(folder: Path) -> dict[str, object]:
    """Everything in a checkpoint, comparable."""
    tensors = {}
    for name in ("model", "optimizer"):
        for key, value in load_file(folder / f"{name}.safetensors").items():
            tensors[f"{name} {key}"] = value.tolist()
    return {**tensors, "state": json.loads((folder / "state.json").read_text())}


def without_times(path: Path) -> list[dict]:
    return [{k: v for k, v in m.items() if k != "tokens_per_second"} for m in read_metrics(path)]


def test_the_loss_falls_and_everything_is_written(tmp_path):
    result = run(tmp_path / "r", replace(CONFIG, steps=40, lr=1e-2))
    metrics = read_metrics(result.metrics)
    losses = [m["loss"] for m in metrics if "loss" in m]
    assert len(losses) == 40 and losses[-1] < 0.6 * losses[0]
    validations = [m["val_loss"] for m in metrics if "val_loss" in m]
    assert result.best["val_loss"] == min(validations) and result.step == 40
    assert result.curve_png.read_bytes().startswith(b"\x89PNG")
    assert result.tokens_per_second > 0 and not result.interrupted
    best, tokenizer = load(result.best_checkpoint)
    assert tokenizer.encode("time") == TOKENIZER.encode("time")
    assert evaluate(best, _validation(24)) == pytest.approx(result.best["val_loss"], rel=1e-5)


def _validation(context: int):
    from fusedlm.data import validation_batches

    return validation_batches(VALIDATION, 3, context)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stop_at", [2, 4, 6])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path, monkeypatch, precision, stop_at
):
    config = replace(CONFIG, precision=precision, accumulate=2)
    run(tmp_path / "whole", config)
    _run_and_crash_after(stop_at, tmp_path / "broken", config, monkeypatch)
    torch.manual_seed(12345)  # a new process starts with another state
    run(tmp_path / "broken", config, resume=True, model=model(), progress=False)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert contents(whole / "last") == contents(broken / "last")
    assert without_times(whole / "metrics.jsonl") == without_times(broken / "metrics.jsonl")
    assert (whole / "best/model.safetensors").read_bytes() == (
        broken / "best/model.safetensors"
    ).read_bytes()


def _run_and_crash_after(step: int, out: Path, config: TrainConfig, monkeypatch, **options) -> None:
    """The process dies one step after the checkpoint of `step`."""
    with monkeypatch.context() as patch:
        from fusedlm.train import loop

        plain = loop._step

        def dying(ranks, optimizer, config, number, last):
            if number == step + 2:
                raise RuntimeError("power cut")
            return plain(ranks, optimizer, config, number, last)

        patch.setattr(loop, "_step", dying)
        with pytest.raises(RuntimeError, match="power cut"):
            run(out, config, **options)


def test_accumulating_batches_equals_one_large_batch(tmp_path):
    one = replace(CONFIG, steps=2, batch=4, clip=None, weight_decay=0.0)
    run(tmp_path / "a", one, model=model(dropout=0.0))
    run(tmp_path / "b", replace(one, batch=2, accumulate=2), model=model(dropout=0.0))
    for name, a in load_file(tmp_path / "a/last/model.safetensors").items():
        b = load_file(tmp_path / "b/last/model.safetensors")[name]
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_only_matrices_decay():
    matrices, vectors = make_optimizer(model(), CONFIG).param_groups
    assert matrices["weight_decay"] == 0.1 and all(p.dim() == 2 for p in matrices["params"])
    assert vectors["weight_decay"] == 0.0 and all(p.dim() == 1 for p in vectors["params"])


def test_the_schedule_rises_then_falls_along_a_cosine():
    config = TrainConfig(steps=110, warmup=10, lr=1.0, min_lr_ratio=0.2)
    assert learning_rate(config, 1) == pytest.approx(0.1)
    assert learning_rate(config, 10) == 1.0
    assert learning_rate(config, 60) == pytest.approx(0.6)
    assert learning_rate(config, 110) == learning_rate(config, 500) == pytest.approx(0.2)
    assert learning_rate(replace(config, warmup=0), 1) == pytest.approx(1.0, abs=1e-3)


def test_tokens_that_are_ignored_weigh_nothing_and_a_step_of_them_alone_is_refused(tmp_path):
    task = LanguageModelling(model(ignore_index=3), TOKENIZER, TRAIN, VALIDATION, CONFIG)
    tokens = torch.tensor([[1, 2, 3, 3]])
    assert task.weight((tokens, torch.tensor([[2, 3, 3, 5]]))) == 2
    nothing = PackedData.of(torch.full((200,), 3), TOKENIZER.vocab_size)
    with pytest.raises(ValueError, match="step 1: nothing is to be learned of its batches"):
        run(tmp_path, model=model(ignore_index=3), data=nothing)


def test_validation_data_is_looked_at_before_the_first_step(tmp_path):
    for data, message in (
        (PackedData.of([1], TOKENIZER.vocab_size), "val_data has 1 tokens, expected at least 2"),
        (PackedData.of([1, 2], 999), "val_data has a vocabulary of 999, the model one of"),
    ):
        with pytest.raises(ValueError, match=message):
            train(model(), TOKENIZER, TRAIN, data, CONFIG, tmp_path, progress=False)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    run(tmp_path / "r")
    before = contents(tmp_path / "r/last")
    with pytest.raises(FileExistsError, match="holds a training run already; resume it"):
        run(tmp_path / "r")
    assert contents(tmp_path / "r/last") == before


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(tmp_path):
    config = replace(CONFIG, steps=4)
    run(tmp_path / "r", config)
    before = contents(tmp_path / "r/last")

    subject = model()
    plain = subject.forward
    subject.forward = lambda *a, **k: plain(*a, **k) * math.nan
    with pytest.raises(
        FloatingPointError, match=r"step 5: the loss is nan \(windows 12 to 14.*last"
    ):
        run(tmp_path / "r", replace(config, steps=8), resume=True, model=subject)
    assert contents(tmp_path / "r/last") == before


def test_a_gradient_that_is_not_finite_changes_nothing(tmp_path):
    subject = model()
    subject.blocks[0].ffn.up_weight.register_hook(lambda g: g * math.inf)
    weights = {name: p.detach().clone() for name, p in subject.named_parameters()}
    with pytest.raises(FloatingPointError, match="step 1: AdamW: the gradient norm is"):
        run(tmp_path / "r", model=subject)
    assert all(torch.equal(p, weights[name]) for name, p in subject.named_parameters())


@pytest.mark.parametrize("failing", ["write_tensors", "write_model"])
def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch, failing):
    run(tmp_path / "r", replace(CONFIG, steps=4))
    before = contents(tmp_path / "r/last")

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, failing, full)
    with pytest.raises(
        OSError, match=r"r/.* was not written .*No space left.*untouched.*MiB"
    ) as caught:
        run(tmp_path / "r", replace(CONFIG, steps=8), resume=True)
    assert caught.value.errno == errno.ENOSPC
    assert contents(tmp_path / "r/last") == before
    assert not [p.name for p in (tmp_path / "r").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "config.json"]
)
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_checkpoint_is_named_and_left_alone(tmp_path, name, damage):
    run(tmp_path / "r", replace(CONFIG, steps=4))
    file = tmp_path / "r/last" / name
    if damage == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()
    expected = CorruptFileError if damage == "cut" else FileNotFoundError
    metrics = (tmp_path / "r/metrics.jsonl").read_text()
    with pytest.raises(expected, match=name):
        run(tmp_path / "r", replace(CONFIG, steps=8), resume=True)
    assert (tmp_path / "r/metrics.jsonl").read_text() == metrics


def test_resuming_another_run_is_refused(tmp_path):
    run(tmp_path / "r", replace(CONFIG, steps=4))
    with pytest.raises(ValueError, match=r"trained with lr 0.003, not 0.5"):
        run(tmp_path / "r", replace(CONFIG, steps=8, lr=0.5), resume=True)
    with pytest.raises(ValueError, match="trained on other data"):
        run(tmp_path / "r", replace(CONFIG, steps=8), resume=True, data=VALIDATION)
    with pytest.raises(ValueError, match="model has width 32, this one 64"):
        run(tmp_path / "r", replace(CONFIG, steps=8), resume=True, model=model(width=64))
    checkpoint = checkpoints.load_checkpoint(tmp_path / "r" / "last")
    encoder = Encoder(EncoderConfig(vocab_size=9, context=8, layers=1, width=8, heads=2))
    with pytest.raises(ValueError, match="model is a Decoder, this one is a Encoder"):
        checkpoint.restore(encoder, None, "")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("best", 5), ("best", {"x": 1.0}), ("best", {"val_loss": "x"}), ("step", -1), ("step", 2**70),
        ("tokens", 1.5), ("data", 3), ("batches", []), ("batches", {}),
    ],
)  # fmt: skip
def test_a_damaged_state_is_named(tmp_path, field, value):
    run(tmp_path, replace(CONFIG, steps=2))
    file = tmp_path / "last" / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises((CorruptFileError, ValueError), match=rf"state.json.*{field}|the state has"):
        run(tmp_path, replace(CONFIG, steps=4), resume=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0), ("batch", 1.5), ("lr", -1.0), ("lr", math.nan), ("betas", (0.9,)),
        ("betas", (0.9, 1.0)), ("clip", 0), ("precision", "float16"), ("min_lr_ratio", 2.0),
        ("eval_batches", 0), ("weight_decay", -0.1),
    ],
)  # fmt: skip
def test_a_bad_setting_is_named(field, value):
    with pytest.raises(ValueError, match=f"TrainConfig: {field} is"):
        TrainConfig(**{field: value})


def test_settings_survive_a_round_trip_and_unknown_ones_do_not():
    assert TrainConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG
    with pytest.raises(ValueError, match="unknown field 'momentum'"):
        TrainConfig.from_dict({"momentum": 0.9})


def test_data_that_does_not_fit_the_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="context is 99, expected at most the model's 24"):
        run(tmp_path / "r", replace(CONFIG, context=99))
    with pytest.raises(ValueError, match=r"the data has 9 tokens, expected at least context \+ 1"):
        run(tmp_path / "r", data=PackedData.of([1] * 9, TOKENIZER.vocab_size))
    wide = PackedData.of([1] * 99, 5000)
    with pytest.raises(ValueError, match="train_data has a vocabulary of 5000"):
        run(tmp_path / "r", data=wide)


def test_a_damaged_line_of_metrics_is_named_but_a_cut_last_one_is_dropped(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_metrics(file) == [{"step": 1}, {"step": 2}]
    file.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(CorruptFileError, match="line 2 is not JSON"):
        read_metrics(file)
    file.write_text('{"step": 1}\n7\n')
    with pytest.raises(CorruptFileError, match=r"metrics\.jsonl: line 2 is no JSON object"):
        read_metrics(file)


def test_a_run_with_adapters_resumes_bit_for_bit_and_leaves_a_merged_model(tmp_path, monkeypatch):
    def adapted() -> Decoder:
        return add_lora(model(), rank=2)

    run(tmp_path / "whole", model=adapted())
    _run_and_crash_after(4, tmp_path / "cut", CONFIG, monkeypatch, model=adapted())
    run(tmp_path / "cut", model=adapted(), resume=True)
    assert contents(tmp_path / "cut" / "last") == contents(tmp_path / "whole" / "last")
    weights = "adapter/adapter_model.safetensors"
    assert (tmp_path / "cut" / "last" / weights).read_bytes() == (
        tmp_path / "whole" / "last" / weights
    ).read_bytes()
    best, _ = load(tmp_path / "whole" / "best")
    beside = load_lora(model(), tmp_path / "whole" / "best" / "adapter").eval()
    tokens = torch.zeros(1, 5, dtype=torch.int64)
    torch.testing.assert_close(best(tokens), beside(tokens), rtol=1e-4, atol=1e-5)


def test_resuming_with_other_adapters_is_refused(tmp_path):
    config = replace(CONFIG, steps=2)
    run(tmp_path, config, model=add_lora(model(), rank=2, alpha=4))
    for other, message in (
        (add_lora(model(), rank=2, alpha=400), r"adapters of alpha 4.0, this one of 400.0"),
        (add_lora(model(), rank=4, alpha=4), "adapters of rank 2, this one of 4"),
        (add_lora(model(), rank=2, alpha=4, targets=["q_proj"]), "adapters of targets"),
        (model(), "adapters of rank 2, this one of None"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path, CONFIG, model=other, resume=True)


class _Ragged(LanguageModelling):
    """Batches whose losses are means of unlike numbers of targets."""

    objective, higher_is_better = "score", True

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(model(dropout=0.0), TOKENIZER, TRAIN, VALIDATION, config)
        self.scores = iter([3.0, 7.0, 5.0, 7.0])

    def loss(self, batch):
        tokens, targets = batch
        return self.model(tokens, targets.masked_fill(tokens % 3 != 0, -100))

    def weight(self, batch):
        return int((batch[0] % 3 == 0).sum())

    def evaluate(self):
        return {"val_loss": 1.0, "score": next(self.scores)}


def test_accumulated_batches_count_by_their_targets(tmp_path):
    config = replace(CONFIG, steps=1, batch=8, clip=None)
    whole = _Ragged(config)
    parts = _Ragged(replace(config, batch=2, accumulate=4))
    weights = {parts.weight(parts.batches.next()) for _ in range(4)}
    assert len(weights) > 1  # or the mean of means would do
    parts.batches.drawn = 0
    fit(whole, config, tmp_path / "whole", progress=False)
    fit(parts, replace(config, batch=2, accumulate=4), tmp_path / "parts", progress=False)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)


def test_the_first_model_with_the_best_objective_is_kept_and_each_evaluation_told(tmp_path):
    config = replace(CONFIG, steps=8, eval_every=2)
    seen = []
    result = fit(_Ragged(config), config, tmp_path, progress=False, on_evaluation=seen.append)
    assert result.best == {"val_loss": 1.0, "score": 7.0}
    assert json.loads((result.best_checkpoint / "training.json").read_text())["best_step"] == 4
    assert [(s["step"], s["score"]) for s in seen] == [(2, 3.0), (4, 7.0), (6, 5.0), (8, 7.0)]
    losses = [m["loss"] for m in read_metrics(result.metrics) if "loss" in m]
    assert seen[1]["loss"] == pytest.approx((losses[2] + losses[3]) / 2)
