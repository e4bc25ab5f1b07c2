"""What several ranks do together, for tests: `torchrun -m tests.support.ranks <folder>`, or that and
"dies".

Each scenario is a function, which test_distributed.py names; its result, or error, of rank r goes to
<folder>/<scenario>.<r>.json.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from fusedlm import _sharded
from fusedlm.data import pack_text, train_chars
from fusedlm.models import Decoder, ModelConfig, add_lora, tensor_parallel
from fusedlm.optim import AdamW
from fusedlm.train import LanguageModelling, TrainConfig, fit, parallel

from .small import small_model

TEXT = "a stitch in time saves nine; " * 60
TOKENIZER = train_chars(TEXT)
TRAIN, VALIDATION = pack_text(TEXT, TOKENIZER).split(0.2)
# Steps of unlike length, so that a run may stop and go on; lr is high so that mistakes grow.
CONFIG = TrainConfig(
    steps=6, batch=2, accumulate=2, lr=1e-2, warmup=0, min_lr_ratio=1.0, eval_every=3, save_every=3
)
WIDE = replace(CONFIG, accumulate=4)


def model(**changes) -> Decoder:
    torch.manual_seed(7)
    # 37 is odd: parts are unlike. The parameters of the norms are fewer than some numbers of ranks.
    shape = {"layers": 2, "width": 32, "heads": 2, "context": 24, "dropout": 0.1, "ffn_width": 37}
    vocab = {"vocab_size": TOKENIZER.vocab_size}
    return Decoder(ModelConfig.llama(**{**vocab, **shape, "tied": True, **changes}))


class Ragged(LanguageModelling):
    """Losses that are means of unlike numbers of targets."""

    def loss(self, batch):
        tokens, targets = batch
        return self.model(tokens, targets.masked_fill(tokens % 3 != 0, -100))

    def weight(self, batch):
        return int((batch[0] % 3 == 0).sum())


def run(out: Path, config: TrainConfig, *, kind=LanguageModelling, subject=None, **options):
    task = kind(subject or model(), TOKENIZER, TRAIN, VALIDATION, config)
    result = fit(task, config, out, **{"progress": False, **options})
    return {"best": result.best, "step": result.step}


def ddp(out):
    return run(out / "ddp", replace(CONFIG, parallel="ddp"))


def fsdp(out):
    """Rank 0 alone has weights at first."""
    subject = model()
    if parallel.gets_parts(subject, "fsdp"):
        subject = Decoder.empty(subject.config)
    return run(out / "fsdp", replace(CONFIG, parallel="fsdp"), subject=subject)


def ddp_accumulating(out):
    return run(out / "ddp_accumulating", replace(WIDE, parallel="ddp"))


def fsdp_accumulating(out):
    config = replace(WIDE, parallel="fsdp", recompute=True)
    return run(out / "fsdp_accumulating", config, subject=model(tied=False))


def ddp_ragged(out):
    return run(out / "ddp_ragged", replace(WIDE, parallel="ddp"), kind=Ragged)


def fsdp_ragged(out):
    return run(out / "fsdp_ragged", replace(WIDE, parallel="fsdp"), kind=Ragged)


def fsdp_adapters(out):
    config = replace(CONFIG, parallel="fsdp")
    return run(out / "fsdp_adapters", config, subject=add_lora(model(), rank=2))


def half(out):
    """Saved by two ranks; one goes on."""
    return run(out / "half", replace(CONFIG, steps=3, parallel="fsdp"))


def resumed(out):
    """Saved by one rank; two go on."""
    return run(out / "resumed", replace(CONFIG, parallel="fsdp"), resume=True)


class _Told(LanguageModelling):
    """Rank 1 gets a signal in step 4."""

    signal = signal.SIGTERM

    def loss(self, batch):
        if _sharded.rank() == 1 and self.batches.drawn == 4 * CONFIG.batch * CONFIG.accumulate:
            os.kill(os.getpid(), self.signal)
        return super().loss(batch)


class _Killed(_Told):
    signal = signal.SIGKILL


def stopped(out):
    return run(out / "stopped", replace(CONFIG, parallel="ddp"), kind=_Told)


def dies(out):
    """The rank that is left is slow to say why: torchrun, which has seen the other end, stops it first."""

    def slow(*error):
        time.sleep(2)
        sys.__excepthook__(*error)

    sys.excepthook = slow
    run(out / "dies", replace(CONFIG, parallel="fsdp"), kind=_Killed)


class _Broken(LanguageModelling):
    """Rank 1 has a loss, or a gradient, that is not finite."""

    what = "loss"

    def loss(self, batch):
        loss = super().loss(batch)
        if _sharded.rank() == 1 and self.what == "loss":
            return loss * math.nan
        if _sharded.rank() == 1:  # the root of 0 has no finite gradient
            return loss + (0 * loss).sqrt()
        return loss


class _BrokenGradient(_Broken):
    what = "gradient"


def _refused(out, name, config, kind):
    subject = model()
    before = [p.detach().clone() for p in subject.parameters()]
    try:
        run(out / name, config, subject=subject, kind=kind)
    except FloatingPointError as error:
        parts = zip(subject.parameters(), before, strict=True)
        same = all(torch.equal(_sharded.whole(p), b) for p, b in parts)
        return {"error": str(error), "unchanged": same}


def loss_not_finite(out):
    return _refused(out, "loss_not_finite", replace(CONFIG, parallel="ddp"), _Broken)


def gradient_not_finite(out):
    config = replace(CONFIG, parallel="fsdp")
    return _refused(out, "gradient_not_finite", config, _BrokenGradient)


def odd_accumulate(out):
    return run(out / "odd", replace(CONFIG, accumulate=3))


def unlike_commands(out):
    return run(out / "unlike", replace(CONFIG, lr=1e-3 * (1 + _sharded.rank())))


def sharing(_out):
    numbers = [*range(5)]
    found = [
        (float(10 * n), float(n)) if counts else (0.0, 0.0) for n, counts in parallel.share(numbers)
    ]
    return {"mine": len(found), "all": parallel.collect(found)}


def _tensor_parallel(name, **changes):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    plain, cut = small_model(name), small_model(name)
    tensor_parallel(cut, mesh)
    cut.recompute = changes.get("recompute", False)
    tokens = torch.randint(61, (3, 17), generator=torch.Generator().manual_seed(1))
    targets = tokens.roll(-1, 1)
    worst = {}

    def compare(what, ours, theirs):
        error = (ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12)
        worst[what] = max(worst.get(what, 0.0), float(error))

    with torch.no_grad():
        compare("logits", cut(tokens), plain(tokens))
    losses = [m.train()(tokens, targets) for m in (plain, cut)]
    compare("loss", losses[1].detach(), losses[0].detach())
    for loss in losses:
        loss.backward()
    optimizers = [AdamW(m.parameters(), lr=0.0, max_grad_norm=1.0) for m in (plain, cut)]
    for optimizer in optimizers:
        optimizer.step()
    norms = [torch.tensor(o.last_grad_norm) for o in optimizers]
    compare("norm", norms[1], norms[0])
    with torch.no_grad():  # so that state_dict() is of gradients
        for parameter in (*plain.parameters(), *cut.parameters()):
            parameter.copy_(parameter.grad)
    theirs = plain.state_dict()
    for key, ours in cut.state_dict().items():
        compare("gradients", _sharded.whole(ours), theirs[key])
    held = sum(_sharded.local(p).numel() for p in cut.blocks.parameters() if p.dim() > 1)
    return {
        **worst,
        "held": held / sum(p.numel() for p in plain.blocks.parameters() if p.dim() > 1),
    }


def tensor_parallel_gpt2(_out):
    return _tensor_parallel("gpt2")


def tensor_parallel_llama(_out):
    return _tensor_parallel("llama", recompute=True)


def tensor_parallel_qwen(_out):
    return _tensor_parallel("qwen")


def tensor_parallel_uneven(_out):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    tensor_parallel(model(heads=1, width=32, dropout=0.0), mesh)


SCENARIOS = (
    ddp, fsdp, ddp_accumulating, fsdp_accumulating, ddp_ragged, fsdp_ragged, fsdp_adapters, half,
    resumed, stopped, loss_not_finite, gradient_not_finite, odd_accumulate, unlike_commands, sharing,
    tensor_parallel_gpt2, tensor_parallel_llama, tensor_parallel_qwen, tensor_parallel_uneven,
)  # fmt: skip


def main(out: Path) -> None:
    parallel.start()
    for scenario in SCENARIOS:
        try:
            result = scenario(out)
        except (ValueError, FloatingPointError) as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        (out / f"{scenario.__name__}.{_sharded.rank()}.json").write_text(json.dumps(result))
    parallel.finish()


if __name__ == "__main__":
    (dies if sys.argv[2:] == ["dies"] else main)(Path(sys.argv[1]))
