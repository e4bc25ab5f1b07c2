"""Two ranks on gloo against one process: the same run, whichever way they share it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fusedlm.cli import main
from fusedlm.models import add_lora, load
from fusedlm.train import read_metrics
from tests.support import commands, ranks
from tests.support.ranks import CONFIG, WIDE, Ragged, model

ROOT = Path(__file__).parents[2]
SECONDS = 150  # what hangs fails


def torchrun(*arguments: object):
    """Two ranks with a thread each."""
    search = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    return commands.run(
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
        "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", "-m", *arguments,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": search}, timeout=SECONDS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """two("ddp") -> what rank 0 and rank 1 found; two.folder holds their runs."""
    folder = tmp_path_factory.mktemp("two")
    ranks.run(folder / "resumed", replace(CONFIG, steps=3))
    done = torchrun("tests.support.ranks", folder)
    assert done.returncode == 0, done.stdout[-5000:]

    def results(name: str) -> list[dict]:
        return [json.loads((folder / f"{name}.{r}.json").read_text()) for r in (0, 1)]

    results.folder = folder
    return results


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """one("name") -> the folder of the same run in this process."""
    folder, done = tmp_path_factory.mktemp("one"), set()
    runs = {
        "plain": lambda out: ranks.run(out, CONFIG),
        "accumulating": lambda out: ranks.run(out, WIDE),
        "untied": lambda out: ranks.run(out, WIDE, subject=model(tied=False)),
        "ragged": lambda out: ranks.run(out, WIDE, kind=Ragged),
        "adapters": lambda out: ranks.run(out, CONFIG, subject=add_lora(model(), rank=2)),
    }

    def run(name: str) -> Path:
        if name not in done:
            runs[name](folder / name)
            done.add(name)
        return folder / name

    return run


def curve(run: Path) -> list[dict]:
    return [
        {key: value for key, value in line.items() if key != "tokens_per_second"}
        for line in read_metrics(run / "metrics.jsonl")
    ]


def assert_same_run(ours: Path, theirs: Path, rtol: float) -> None:
    """Curves, and all tensors of the last checkpoint and the best model."""
    ours_lines, theirs_lines = curve(ours), curve(theirs)
    assert [line.keys() for line in ours_lines] == [line.keys() for line in theirs_lines]
    for a, b in zip(ours_lines, theirs_lines, strict=True):
        assert a == pytest.approx(b, rel=rtol)
    names = {str(f.relative_to(theirs)) for f in theirs.glob("*/**/*.safetensors")}
    assert names == {str(f.relative_to(ours)) for f in ours.glob("*/**/*.safetensors")}
    for name in names:
        mine, other = load_file(ours / name), load_file(theirs / name)
        assert mine.keys() == other.keys()
        for key, value in other.items():
            # Of their largest element: AdamW makes steps of one size of gradients that are nearly 0.
            atol = 10 * rtol * float(value.abs().max())
            torch.testing.assert_close(mine[key], value, rtol=0, atol=atol, msg=f"{name} {key}")


def test_two_replicas_with_a_batch_each_are_one_process_with_two_bit_for_bit(one, two):
    assert_same_run(two.folder / "ddp", one("plain"), rtol=0)
    assert two("ddp")[0] == two("ddp")[1]


@pytest.mark.parametrize(
    ("name", "alone"),
    [
        ("fsdp", "plain"), ("ddp_accumulating", "accumulating"), ("fsdp_accumulating", "untied"),
        ("ddp_ragged", "ragged"), ("fsdp_ragged", "ragged"), ("fsdp_adapters", "adapters"),
    ],
)  # fmt: skip
def test_two_ranks_make_the_run_of_one_process(one, two, name, alone):
    assert_same_run(two.folder / name, one(alone), rtol=1e-5)
    assert two(name)[0] == two(name)[1]


def test_the_rest_of_a_run_takes_another_number_of_ranks(one, two, tmp_path):
    assert_same_run(two.folder / "resumed", one("plain"), rtol=1e-5)
    ranks.run(two.folder / "half", CONFIG, resume=True)  # it was saved by two
    assert_same_run(two.folder / "half", one("plain"), rtol=1e-5)


def test_a_signal_at_one_rank_stops_all_at_the_same_step_and_saves(one, two):
    assert [found["step"] for found in two("stopped")] == [4, 4]
    ranks.run(two.folder / "stopped", CONFIG, resume=True)
    assert_same_run(two.folder / "stopped", one("plain"), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "what"),
    [("loss_not_finite", "the loss is nan"), ("gradient_not_finite", "the gradient norm is nan")],
)
def test_what_is_not_finite_at_one_rank_stops_all_before_anything_changes(two, name, what):
    for found in two(name):
        assert f"step 1: {what}" in found["error"].replace("AdamW: ", "") and found["unchanged"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("odd_accumulate", "accumulate is 3, expected a multiple of the 2 ranks"),
        ("unlike_commands", "rank 1 has lr 0.002, rank 0 0.001"),
        ("tensor_parallel_uneven", "the model has heads 1, expected a multiple of the 2 ranks"),
    ],
)
def test_what_cannot_be_shared_is_named_on_every_rank(two, name, message):
    assert all(message in found["error"] for found in two(name))


def test_shared_items_come_back_in_order_and_all_ranks_get_as_many(two):
    for found in two("sharing"):
        assert found["mine"] == 3
        assert found["all"] == [[10.0 * n, float(n)] for n in range(5)] + [[0.0, 0.0]]


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen"])
def test_a_decoder_in_parts_has_the_logits_loss_and_gradients_of_the_whole(two, family):
    for found in two(f"tensor_parallel_{family}"):
        assert found.pop("held") == 0.5
        assert found.keys() == {"logits", "loss", "norm", "gradients"}
        assert max(found.values()) < 1e-5, found


def test_a_rank_that_dies_ends_the_run_and_the_last_checkpoint_goes_on(one, tmp_path):
    done = torchrun("tests.support.ranks", tmp_path, "dies")
    assert done.returncode != 0
    last = tmp_path / "dies" / "last"
    assert "lost contact with another of the 2 ranks" in done.stdout
    assert f"go on from {last} with --resume" in done.stdout
    ranks.run(tmp_path / "dies", CONFIG, resume=True)
    assert_same_run(tmp_path / "dies", one("plain"), rtol=1e-5)


def test_a_command_that_torchrun_starts_again_goes_on_from_the_last_checkpoint(
    tmp_path, monkeypatch
):
    (tmp_path / "text.txt").write_text(ranks.TEXT)
    command = (
        "fusedlm train text.txt --out run --tokenizer chars --layers 1 --width 16 --heads 2 --context 24"
        " --batch 2 --quiet --eval-every 2 --steps"
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for steps, restarts in ((2, 0), (4, 1)):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        monkeypatch.setattr(sys, "argv", [*command.split(), str(steps)])
        with contextlib.suppress(SystemExit):
            main()
    steps = [
        line["step"] for line in read_metrics(tmp_path / "run/metrics.jsonl") if "loss" in line
    ]
    assert steps == [1, 2, 3, 4]
    assert json.loads((tmp_path / "run/last/training.json").read_text())["step"] == 4


def test_the_command_line_says_everything_once_and_leaves_a_model(tmp_path):
    (tmp_path / "text.txt").write_text(ranks.TEXT)
    done = torchrun(
        "fusedlm", "train", tmp_path / "text.txt", "--out", tmp_path / "run", "--tokenizer", "chars",
        "--layers", 1, "--width", 16, "--heads", 2, "--context", 24, "--batch", 2, "--steps", 4, "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    for line in ("2 ranks", "validation loss", "Try next"):
        assert done.stdout.count(line) == 1, done.stdout
    assert "Warning" not in done.stdout
    training = json.loads((tmp_path / "run/last/training.json").read_text())
    assert training["accumulate"] == 2 and training["tokens"] == 4 * 2 * 2 * 24  # a batch a rank
    load(tmp_path / "run/best")
