"""One process with all threads against two ranks that share them, on this machine.

    python -m benchmarks.distributed

A step is the loop's own: batches dealt out, forward, backward, sums over ranks, clipping, AdamW. Prints
best and median time of a step and the most memory a rank had resident. Two ranks on one machine
gain nothing but show what their talk costs; the layouts run in turn, twice.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

LAYOUTS = ("alone", "ddp", "fsdp")
# name -> (fields of ModelConfig, batch, steps timed). The second is for memory: mostly parameters.
MODELS = {
    "12 M": ({"layers": 6, "width": 384, "heads": 6, "vocab_size": 4096, "context": 256}, 8, 8),
    "105 M": ({"layers": 8, "width": 1024, "heads": 16, "vocab_size": 4096, "context": 64}, 1, 6),
}
RUNS = (("12 M", "bfloat16"), ("105 M", "bfloat16"), ("12 M", "float32"))


def work(name: str, precision: str, layout: str) -> None:
    """What each rank does; rank 0 prints a line."""
    import torch

    from fusedlm._sharded import rank
    from fusedlm.data import PackedData
    from fusedlm.models import Decoder, ModelConfig
    from fusedlm.train import LanguageModelling, TrainConfig, loop, parallel

    parallel.start()
    fields, batch, steps = MODELS[name]
    torch.manual_seed(0)
    model = Decoder(ModelConfig.llama(**fields, tied=True))
    data = PackedData.of(torch.randint(4096, (200_000,)).numpy(), 4096)
    how = "auto" if layout == "alone" else layout
    config = TrainConfig(batch=batch, accumulate=2, precision=precision, parallel=how)
    task = LanguageModelling(model, None, data, data, config)
    task.prepare(config)
    ranks = parallel.Parallel(task, config)
    optimizer = loop.make_optimizer(model, config)
    times = []
    for step in range(1, steps + 4):
        parallel.any_of(False)
        started = time.perf_counter()
        loop._step(ranks, optimizer, config, step, Path("none"))
        times.append(time.perf_counter() - started)
    times = times[3:]
    mebibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if rank() == 0:
        print(f"{min(times) * 1e3:.1f} {statistics.median(times) * 1e3:.1f} {mebibytes:.0f}")
    parallel.finish()


def measure(name: str, precision: str, layout: str) -> list[float]:
    """[best ms, median ms, MiB] of one run in processes of its own."""
    cores = len(os.sched_getaffinity(0))
    launch = [sys.executable]
    if layout != "alone":
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    threads = cores if layout == "alone" else max(1, cores // 2)
    done = subprocess.run(
        [*launch, "-m", "benchmarks.distributed", name, precision, layout],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    print("| model | dtype | layout | best ms | median ms | to alone | MiB a rank |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, precision in RUNS:
        runs = {layout: [] for layout in LAYOUTS}
        for _ in range(2):
            for layout in LAYOUTS:
                runs[layout].append(measure(name, precision, layout))
        alone = min(run[0] for run in runs["alone"])
        for layout, found in runs.items():
            best = min(run[0] for run in found)
            median = statistics.mean(run[1] for run in found)
            memory = max(run[2] for run in found)
            print(
                f"| {name} | {precision} | {layout} | {best:.0f} | {median:.0f} |"
                f" {best / alone:.2f} | {memory:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    work(*sys.argv[1:]) if sys.argv[1:] else main()
