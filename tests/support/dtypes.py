"""The dtypes that every op takes."""

from __future__ import annotations

import torch

HALVES = [torch.bfloat16, torch.float16]
DTYPES = [torch.float32, *HALVES]
