"""A training step of a Hugging Face model before and after `fusedlm.patch`.

python -m benchmarks.patched [llama bert ...] [--seconds 10] [--autocast]

Forward, backward and AdamW, in bfloat16 (or under autocast), torch eager with its SDPA attention next to
the same model patched, in turn in one process; peak memory of a step in processes of their own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import transformers

import fusedlm
from benchmarks.memory import peak_of
from benchmarks.timing import alternate

_LLAMA = {
    "vocab_size": 8192, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6,
    "num_attention_heads": 6, "max_position_embeddings": 512,
}  # fmt: skip
_GROUPED = {**_LLAMA, "num_key_value_heads": 2}
_T5 = {
    "vocab_size": 8192,
    "d_model": 384,
    "d_kv": 64,
    "d_ff": 1024,
    "num_layers": 3,
    "num_heads": 6,
}
_BERT = {**_LLAMA, "intermediate_size": 1536}
FAMILIES = {
    "llama": ("LlamaConfig", _GROUPED),
    "mistral": ("MistralConfig", {**_GROUPED, "sliding_window": 256}),
    "qwen2": ("Qwen2Config", _GROUPED),
    "qwen3": ("Qwen3Config", {**_GROUPED, "head_dim": 64}),
    "gemma": ("GemmaConfig", {**_GROUPED, "head_dim": 64}),
    "gpt2": (
        "GPT2Config",
        {"vocab_size": 8192, "n_embd": 384, "n_layer": 6, "n_head": 6, "n_positions": 512},
    ),
    "bert": ("BertConfig", _BERT),
    "roberta": ("RobertaConfig", {**_BERT, "max_position_embeddings": 514}),
    "distilbert": (
        "DistilBertConfig",
        {"vocab_size": 8192, "dim": 384, "hidden_dim": 1536, "n_layers": 6, "n_heads": 6},
    ),
    "t5": ("T5Config", {**_T5, "decoder_start_token_id": 0}),
}


def step_of(family: str, patched: bool, autocast: bool, rows: int = 8) -> Callable[[], None]:
    name, fields = FAMILIES[family]
    config = getattr(transformers, name)(**fields)
    kind = transformers.AutoModelForCausalLM
    if family == "t5":
        kind = transformers.AutoModelForSeq2SeqLM
    elif "bert" in family:
        kind = transformers.AutoModelForMaskedLM
    torch.manual_seed(0)
    model = kind.from_config(config).train()
    if not autocast:
        model = model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    if patched:
        fusedlm.patch(model)
        fusedlm.patch(optimizer)
    tokens = torch.randint(8192, (rows, 256))
    labels = tokens.clone()
    if "bert" in family:
        labels[torch.rand(tokens.shape) > 0.15] = -100

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help=f"of {', '.join(FAMILIES)}; all by default")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each family")
    parser.add_argument("--autocast", action="store_true", help="float32 weights under autocast")
    given = parser.parse_args()
    print(
        f"isa {fusedlm.isa()}, {torch.get_num_threads()} threads, torch {torch.__version__},"
        f" transformers {transformers.__version__}, batch 8 x 256"
    )
    for family in given.families or FAMILIES:
        times = alternate(
            {
                "patched": step_of(family, True, given.autocast),
                "eager": step_of(family, False, given.autocast),
            },
            given.seconds,
        )
        ours, theirs = times["patched"], times["eager"]
        memory = [
            peak_of(
                "from benchmarks.patched import step_of\n"
                f"step = step_of({family!r}, {patched}, {given.autocast})"
            )
            for patched in (True, False)
        ]
        print(
            f"{family:12} eager {theirs.best * 1e3:7.1f} ms, patched {ours.best * 1e3:7.1f} ms:"
            f" {theirs.best / ours.best:.2f}x best, {theirs.median / ours.median:.2f}x median;"
            f" peak of a step {memory[1]:.2f} -> {memory[0]:.2f} GB ({memory[0] / memory[1]:.2f}x)"
        )


if __name__ == "__main__":
    main()
