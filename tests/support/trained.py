"""A digest of a short training of a small model: `python -m tests.support.trained bfloat16 2`."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace

import torch

from fusedlm.models import Decoder, ModelConfig
from fusedlm.optim import AdamW

# Ragged in every direction, and enough rows for several threads.
SHAPE = ModelConfig.llama(
    vocab_size=113, context=70, layers=2, width=96, heads=4, kv_heads=2, ffn_width=130, dropout=0.1
)


def trained(dtype: torch.dtype, steps: int = 4, compiled: str | None = None, **changes) -> str:
    """The digest of losses, gradients and parameters of some steps; `compiled` is a backend of torch.compile."""
    device = torch.get_default_device()  # a GPU in tests that run there
    torch.manual_seed(5)
    model = Decoder(replace(SHAPE, **changes)).train()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    run = torch.compile(model, backend=compiled) if compiled else model
    digest = hashlib.sha256()
    for step in range(steps):
        drawn = torch.Generator("cpu").manual_seed(step)
        tokens = torch.randint(113, (17, 65), generator=drawn, device="cpu").to(device)
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = run(tokens, tokens.roll(-1, 1))
        loss.backward()
        optimizer.step()
        for tensor in (loss, *(x for p in model.parameters() for x in (p.grad, p))):
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    print(trained(getattr(torch, sys.argv[1])))
