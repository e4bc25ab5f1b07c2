"""Whether CUDA kernels can run here on a GPU."""

from __future__ import annotations

import torch

import fusedlm

HAS_GPU = torch.cuda.is_available() and fusedlm.cuda_compiled()
ON_GPU = ("simt", "cuda")  # names under which the kernels of a GPU run, emulated or not
