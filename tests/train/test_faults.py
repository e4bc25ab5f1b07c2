"""What happens to a run when something happens to it: each fault is real where that is possible.

A lost rank is in test_distributed.py, a checkpoint that somebody damaged and a gradient that is not finite
in test_training.py.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fusedlm import _interrupt
from fusedlm.data import PackedData
from fusedlm.train import LanguageModelling, fit, loop, read_metrics
from tests.support import ranks
from tests.support.child import ROOT, environment
from tests.support.ranks import CONFIG, TOKENIZER, TRAIN, VALIDATION
from tools.kill_test import MEASURED, digest

HALF = replace(CONFIG, steps=3)
SIZE = 65_056  # of model.safetensors; optimizer.safetensors has twice that, all else is smaller
HOLDER = """
import sys, time
from fusedlm.train.run_folder import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def ctrl_c_counts():
    """A shell starts what runs in its background with SIGINT ignored, which children inherit."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "r"
    ranks.run(out, CONFIG)
    return out


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    out = tmp_path_factory.mktemp("half") / "r"
    ranks.run(out, HALF)
    return out


@pytest.fixture
def run(half, tmp_path):
    """A run of which the first half is done, and of which the name is r."""
    return shutil.copytree(half, tmp_path / "r")


def assert_ends_like(out: Path, whole: Path) -> None:
    """Every file, and its bytes but for measured times."""
    files = [{f.relative_to(r) for f in r.rglob("*") if f.is_file()} for r in (out, whole)]
    assert files[0] == files[1]
    for name in files[1]:
        if name.suffix in (".safetensors", ".json") and name.name not in MEASURED:
            assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    curves = [
        [{k: v for k, v in m.items() if k != "tokens_per_second"} for m in read_metrics(r / "metrics.jsonl")]
        for r in (out, whole)
    ]  # fmt: skip
    assert curves[0] == curves[1]


def goes_on(out: Path, whole: Path) -> None:
    """To the same bits, in a process whose generator is in another state."""
    torch.manual_seed(99)
    ranks.run(out, CONFIG, resume=True)
    assert_ends_like(out, whole)


# The disk


@contextlib.contextmanager
def files_of_at_most(size: int):
    """The system writes up to `size` bytes of a file, and refuses the rest: as a disk that fills up does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("room", "named"),
    [
        (0, "metrics.jsonl was not written"), (600, "metrics.jsonl was not written"),
        (SIZE - 1, "best was not written"), (SIZE + 1, "last was not written"),
        (2 * SIZE - 1, "last was not written"),
    ],
)  # fmt: skip
def test_what_does_not_fit_on_the_disk_is_named_and_the_last_checkpoint_goes_on(
    run, whole, room, named
):
    assert (run / "last/model.safetensors").stat().st_size == SIZE
    before = digest(run / "last")
    with files_of_at_most(room), pytest.raises(OSError, match=rf"r/{named} .*File too large"):
        ranks.run(run, CONFIG, resume=True)
    assert digest(run / "last") == before and not list(run.glob(".*")) + list(run.glob("*.lock"))
    goes_on(run, whole)


@contextlib.contextmanager
def nobody():
    """The rights of a user to whom nothing here belongs: the superuser may write anywhere."""
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        yield
    finally:
        if superuser:
            os.seteuid(0)


@pytest.fixture
def shared(half):
    """A folder that everybody can reach (those of pytest are the owner's), with a run of everybody's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        out = shutil.copytree(half, Path(folder) / "r")
        for path in [out, *out.rglob("*")]:
            path.chmod(0o777 if path.is_dir() else 0o666)
        yield out


def test_a_folder_that_cannot_be_written_to_is_named_before_anything_is_trained(shared):
    before = digest(shared / "last")
    for folder, out in ((shared, shared), (shared.parent, shared.parent / "new")):
        folder.chmod(0o555)
        task = LanguageModelling(ranks.model(), TOKENIZER, TRAIN, VALIDATION, CONFIG)
        message = rf"{out} cannot be written to .*another folder"
        with nobody(), pytest.raises(PermissionError, match=message):
            fit(task, CONFIG, out, resume=out == shared, progress=False)
        assert task.batches.drawn == 0
    assert digest(shared / "last") == before and [*shared.parent.iterdir()] == [shared]


def test_a_folder_that_becomes_read_only_ends_the_run_and_keeps_the_checkpoint(
    shared, whole, monkeypatch
):
    before, plain = digest(shared / "last"), loop.save_checkpoint

    def late(*arguments):
        shared.chmod(0o555)
        with nobody():
            plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", late)
        with pytest.raises(PermissionError, match=r"r/last was not written .*untouched"):
            ranks.run(shared, CONFIG, resume=True)
    assert digest(shared / "last") == before
    shared.chmod(0o777)
    goes_on(shared, whole)


# Signals


class Signalled(LanguageModelling):
    """This process gets signals while the batch of the second step after the resume is computed."""

    signals = (signal.SIGINT,)

    def loss(self, batch):
        loss = super().loss(batch)
        if self.batches.drawn == 5 * CONFIG.batch * CONFIG.accumulate:
            for number in self.signals:
                os.kill(os.getpid(), number)
            self.signals = ()
        return loss


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_saved(run, whole, monkeypatch, number):
    monkeypatch.setattr(Signalled, "signals", (number,))
    result = ranks.run(run, CONFIG, kind=Signalled, resume=True)
    assert result["step"] == 5 and digest(run / "last")[0] == "5"
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)
    goes_on(run, whole)


def test_a_second_ctrl_c_ends_at_once_with_the_checkpoint_before(run, whole, monkeypatch):
    monkeypatch.setattr(Signalled, "signals", (signal.SIGINT, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        ranks.run(run, CONFIG, kind=Signalled, resume=True)
    assert digest(run / "last")[0] == "3"
    goes_on(run, whole)


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_amid_a_checkpoint_leaves_a_whole_one(run, whole, monkeypatch, signals):
    from fusedlm.train import checkpoint

    plain = checkpoint.write_tensors

    def interrupted(*arguments):
        plain(*arguments)
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_tensors", interrupted)
        early = replace(CONFIG, save_every=4)
        with pytest.raises(KeyboardInterrupt) if signals == 2 else contextlib.nullcontext():
            ranks.run(run, early, resume=True)
    assert digest(run / "last")[0] == ("3" if signals == 2 else "4")
    assert not list(run.glob(".*"))
    ranks.run(run, CONFIG, resume=True)
    assert (run / "last/model.safetensors").read_bytes() == (
        whole / "last/model.safetensors"
    ).read_bytes()


def command(out: Path, text: Path) -> subprocess.Popen:
    options = (
        "--tokenizer chars --layers 1 --width 16 --heads 2 --context 24 --batch 2 --steps 99999"
    )
    return subprocess.Popen(
        [sys.executable, "-m", "fusedlm", "train", str(text), "--out", str(out), *options.split()],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def until(process: subprocess.Popen, file: Path) -> None:
    end = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None and time.monotonic() < end, process.stdout.read()
        time.sleep(0.01)


def test_ctrl_c_before_the_first_step_ends_without_a_traceback_and_leaves_no_run(tmp_path):
    (tmp_path / "text.txt").write_text(ranks.TEXT * 200)
    process = command(tmp_path / "r", tmp_path / "text.txt")
    until(process, tmp_path / "r" / "run.lock")  # it reads its text now
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    if "stopped and saved" not in said:  # or it was quicker than we
        # Python ends by the signal itself where it came into code that a C extension runs.
        assert process.returncode in (130, -signal.SIGINT), said
        assert len(said.strip().splitlines()) <= 1, said
        assert not (tmp_path / "r" / "last").exists()
    assert not (tmp_path / "r" / "run.lock").exists()


def test_ctrl_c_that_a_callback_of_a_library_lost_still_ends_the_run(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _interrupt.remember()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            ranks.run(tmp_path / "r", CONFIG)
        assert not (tmp_path / "r" / "last").exists()
        ranks.run(tmp_path / "r", CONFIG)  # it ends one run
        assert (tmp_path / "r" / "last").exists()
    finally:
        signal.signal(signal.SIGINT, before)


# Numbers


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_poisoned_batch_is_named_by_windows_that_hold_it(tmp_path, accumulate):
    poison = TOKENIZER.vocab_size
    ids = TRAIN.ids.copy()
    ids[len(ids) // 2] = poison
    data = PackedData.of(ids, poison + 1)
    config = replace(CONFIG, steps=200, accumulate=accumulate, eval_every=500, save_every=500)
    model = ranks.model(vocab_size=poison + 1, tied=False)
    with torch.no_grad():
        model.embedding.weight[poison] = math.inf
    task = LanguageModelling(model, None, data, VALIDATION, config)
    with pytest.raises(FloatingPointError, match="the loss is nan") as caught:
        fit(task, config, tmp_path / "r", progress=False)
    words = str(caught.value).partition("(windows ")[2].split()
    first, last = int(words[0]), int(words[2])
    assert last - first + 1 == config.batch * accumulate
    again = LanguageModelling(model, None, data, VALIDATION, config).batches
    again.drawn = first
    assert any(poison in again.next()[0] for _ in range(accumulate))


def test_an_evaluation_that_is_not_a_number_does_not_stay_the_best(tmp_path):
    class Unlucky(LanguageModelling):
        losses = iter([math.nan, 2.0, math.nan])

        def evaluate(self):
            return {"val_loss": next(self.losses)}

    result = ranks.run(tmp_path, replace(CONFIG, eval_every=2), kind=Unlucky)
    assert result["best"] == {"val_loss": 2.0}
    assert json.loads((tmp_path / "best/training.json").read_text())["best_step"] == 4


def test_a_clock_that_jumps_changes_neither_the_run_nor_its_times(tmp_path, whole, monkeypatch):
    draw = random.Random(0)
    monkeypatch.setattr(time, "time", lambda: draw.uniform(-1e9, 4e9))
    ranks.run(tmp_path / "r", CONFIG, progress=True)
    assert_ends_like(tmp_path / "r", whole)
    cost = json.loads((tmp_path / "r/last/training.json").read_text())["cost"]
    rates = [
        m["tokens_per_second"] for m in read_metrics(tmp_path / "r/metrics.jsonl") if "loss" in m
    ]
    assert 0 < cost["seconds"] < 3600 and all(0 < rate < 1e9 for rate in rates)


# Other processes


def test_a_second_run_in_a_folder_is_refused_until_the_first_has_ended_however(run, whole):
    before = digest(run / "last")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        for resume in (True, False):
            with pytest.raises(BlockingIOError, match=rf"r is in use: process {holder.pid} trains"):
                ranks.run(run, CONFIG, resume=resume)
        assert digest(run / "last") == before
    finally:
        holder.kill()
        holder.wait()
    assert (run / "run.lock").exists()  # it could not clear up
    goes_on(run, whole)


def test_killed_again_and_again_a_run_ends_with_the_bits_of_an_undisturbed_one(tmp_path):
    report = tmp_path / "kills.json"
    options = "--kills 4 --steps 60 --seed 3 --json".split()
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "kill_test.py", *options, report],
        env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(report.read_text())["kills"] == 4
