"""An encoder of MiniLM's shape next to transformers (eager, sdpa): forward, and a step of fine-tuning.

    python -m benchmarks.encoder

Batches of 32 texts: all of 128 tokens, and ragged ones of 8 to 128, which transformers pads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

import fusedlm
from benchmarks.timing import alternate
from fusedlm.models import Encoder, EncoderConfig
from fusedlm.models.huggingface_encoder import names_of, write_encoder_config
from fusedlm.models.weights import renamed

CONFIG = EncoderConfig(
    30522, context=512, layers=6, width=384, heads=12, dropout=0.0, task="sequence",
    labels=["no", "yes"],
)  # fmt: skip
TEXTS, LONGEST = 32, 128


def batch(ragged: bool) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(8, LONGEST + 1, (TEXTS,), generator=draw) if ragged else None
    tokens = torch.randint(1000, CONFIG.vocab_size, (TEXTS, LONGEST), generator=draw)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    if lengths is not None:
        lengths[0] = LONGEST
        mask = torch.arange(LONGEST) < lengths[:, None]
    return tokens.masked_fill(~mask, CONFIG.pad_id), mask, torch.arange(TEXTS) % 2


def candidates(dtype: torch.dtype, ragged: bool, train: bool) -> dict[str, Callable[[], object]]:
    import transformers

    tokens, mask, targets = batch(ragged)
    torch.manual_seed(0)
    ours = Encoder(CONFIG, dtype)
    weights = renamed(ours, ours.state_dict(), names_of(CONFIG))

    def of_ours() -> Tensor:
        return ours.classify(tokens, mask, targets=targets if train else None)

    found = {"ours": _run(ours, of_ours, train)}
    values = write_encoder_config(CONFIG)
    for attention in ("eager", "sdpa"):
        config = transformers.BertConfig(
            **{k: v for k, v in values.items() if k not in ("architectures", "model_type")},
            attn_implementation=attention,
        )
        peer = transformers.BertForSequenceClassification(config)
        peer.load_state_dict(weights)
        # Weights stay float32 in training, as ours do; without it all of the model is in dtype.
        peer = peer if train else peer.to(dtype)

        def of_theirs(peer=peer) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=train and dtype != torch.float32):
                out = peer(tokens, attention_mask=mask, labels=targets if train else None)
            return out.loss if train else out.logits

        found[attention] = _run(peer, of_theirs, train)
    return found


def _run(model: torch.nn.Module, call: Callable[[], Tensor], train: bool) -> Callable[[], object]:
    model.train(train)
    if not train:
        return torch.inference_mode()(call)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        call().backward()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="for each line")
    given = parser.parse_args()
    print(f"isa {fusedlm.isa()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for dtype in (torch.bfloat16, torch.float32):
        for ragged in (False, True):
            counted = int(batch(ragged)[1].sum())
            for train in (False, True):
                times = alternate(candidates(dtype, ragged, train), given.seconds)
                best = times["ours"].best
                what = f"{'ragged' if ragged else 'even'}, {'step' if train else 'forward'}"
                print(f"{str(dtype)[6:]:8} {what:15} {counted / best:8,.0f} tokens/s", end="")
                for peer in ("eager", "sdpa"):
                    print(f"   {times[peer].best / best:5.2f}x {peer}", end="")
                print()


if __name__ == "__main__":
    main()
