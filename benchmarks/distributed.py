"""One process with all threads against two ranks that share them, on this machine.

    python -m benchmarks.distributed

A step is the loop's own: batches dealt out, forward, backward, sums over ranks, clipping, AdamW. Prints
best and median time of a step and the most memory a rank had resident. Two ranks on one machine
gain nothing but show what their talk costs; the layouts run in turn, twice. Before that, how fast gloo
moves 50 MB between the two.
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


def talk() -> None:
    """What each rank does to time gloo alone; rank 0 prints GB/s of the 50 MB."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    whole, part = torch.ones(12_500_000), torch.ones(6_250_000)
    for name, send in (
        ("all-gather", lambda: dist.all_gather_into_tensor(whole, part)),
        ("reduce-scatter", lambda: dist.reduce_scatter_tensor(part, whole)),
        ("all-reduce", lambda: dist.all_reduce(whole)),
    ):
        times = []
        for _ in range(9):
            dist.barrier()
            started = time.perf_counter()
            send()
            times.append(time.perf_counter() - started)
        if dist.get_rank() == 0:
            print(
                f"{name}: best {0.05 / min(times):.2f} GB/s, median {0.05 / statistics.median(times):.2f}"
            )
    dist.destroy_process_group()


def measure(name: str, precision: str, layout: str) -> list[float]:
    """[best ms, median ms, MiB] of one run in processes of its own."""
    return [
        float(word) for word in launch(name, precision, layout, alone=layout == "alone").split()
    ]


def launch(*arguments: str, alone: bool = False) -> str:
    """What this module prints in a process with all threads, or in two ranks that share them."""
    cores = len(os.sched_getaffinity(0))
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *([] if alone else two), "-m", "benchmarks.distributed", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": str(cores if alone else max(1, cores // 2))},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def main() -> None:
    print(launch("talk"), flush=True)
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
    {1: main, 2: talk, 4: work}[len(sys.argv)](*sys.argv[1:4] if len(sys.argv) == 4 else ())
