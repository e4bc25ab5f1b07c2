"""Text in, text out with a torch `Decoder`, as training has it at hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fusedlm.models.decoder import Decoder

from .batch import Batch, Job, Options
from .engine import generator_of
from .generate import check_prompts
from .sampling import Sampling, row_seeds
from .text import Tokenizer


def stream_text(
    model: Decoder, tokenizer: Tokenizer, prompt: str, *, max_new_tokens: int = 200,
    stop: str | Sequence[str] | None = None, seed: int | None = None, **sampling: Any,
) -> Iterator[str]:  # fmt: skip
    """The continuation of `prompt` in pieces, as they come; joined it equals `generate_text`."""
    batch, jobs = _begin(
        model, tokenizer, [prompt], max_new_tokens, stop, seed, sampling
    )  # arguments are checked here, not at the first piece
    return _pieces(batch, jobs[0])


def _pieces(batch: Batch, job: Job) -> Iterator[str]:
    while not job.done:
        batch.step()
        if text := job.take().text:
            yield text


def generate_text(
    model: Decoder, tokenizer: Tokenizer, prompt: str | Sequence[str], *,
    max_new_tokens: int = 200, stop: str | Sequence[str] | None = None, seed: int | None = None,
    **sampling: Any,
) -> str | list[str]:  # fmt: skip
    """Continues a prompt, or several at once; returns the new text only, a list for a list.

    A row ends at max_new_tokens, at the tokenizer's end-of-text token or at the first stop string,
    which is left out. An empty prompt starts from the end-of-text token. `sampling`: temperature,
    top_k, top_p, min_p, repetition_penalty. Raises ValueError naming what does not fit.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    batch, jobs = _begin(model, tokenizer, prompts, max_new_tokens, stop, seed, sampling)
    while not all(job.done for job in jobs):
        batch.step()
    return jobs[0].text if isinstance(prompt, str) else [job.text for job in jobs]


def _begin(
    model: Decoder, tokenizer: Tokenizer, prompts: list[str], max_new_tokens: int,
    stop: str | Sequence[str] | None, seed: int | None, sampling: dict[str, Any],
) -> tuple[Batch, list[Job]]:  # fmt: skip
    unknown = sorted(set(sampling) - set(Sampling.__dataclass_fields__))
    if unknown:
        raise TypeError(f"generate: unknown argument {unknown[0]!r}")
    rows = check_prompts(
        model, [_encode(tokenizer, number, text) for number, text in enumerate(prompts)]
    )
    eos = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
    options = [
        Options(
            max_new_tokens=max_new_tokens, sampling=Sampling(**sampling), seed=row_seed,
            stop=() if stop is None else stop, stop_ids=eos, ignore_eos=True, slide=True,
        )
        for row_seed in row_seeds(seed, len(prompts))
    ]  # fmt: skip
    batch = Batch(generator_of(model, rows, max_new_tokens), model.config.context, tokenizer)
    return batch, [batch.submit(row, options[number]) for number, row in enumerate(rows)]


def _encode(tokenizer: Tokenizer, number: int, text: str) -> list[int]:
    if not isinstance(text, str):
        raise ValueError(f"generate: prompt {number} is {text!r}, expected a string")
    ids = tokenizer.encode(text)
    if ids:
        return ids
    if tokenizer.eos_id is None:
        raise ValueError(
            f"generate: prompt {number} is empty, and the tokenizer has no end-of-text token"
        )
    return [tokenizer.eos_id]
