"""fusedlm info: what this build can do on this machine."""

from __future__ import annotations

import json
import os
import platform

import typer

from .options import AsJson


def info(as_json: AsJson = False) -> None:
    """Show version, instruction sets, threads and whether CUDA kernels are compiled in.

    \b
    Examples:
      fusedlm info
      FUSEDLM_ISA=avx2 fusedlm info --json
    """
    import torch

    import fusedlm

    values = {
        "version": fusedlm.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "threads": torch.get_num_threads(),
        "isa": fusedlm.isa(),
        "isas_available": fusedlm.available_isas(),
        "cuda_compiled": fusedlm.cuda_compiled(),
    }
    if as_json:
        typer.echo(json.dumps(values))
        return
    names = {"isa": "instruction set in use", "isas_available": "instruction sets available"}
    names["cuda_compiled"] = "CUDA kernels compiled in"
    for key, value in values.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        shown = {True: "yes", False: "no"}.get(shown, shown) if isinstance(shown, bool) else shown
        typer.echo(f"{names.get(key, key):27} {shown}")
