"""Token-level generation with a `Decoder`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from fusedlm.models.decoder import Decoder

from .batch import Batch, Job, Options
from .engine import generator_of
from .sampling import Sampling, check_integer, row_seeds

Prompts = Tensor | Sequence[Sequence[int]]


def generate(
    model: Decoder,
    tokens: Prompts,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop: Sequence[Sequence[int]] | None = None,
    eos_id: int | None = None,
    seed: int | None = None,
    on_token: Callable[[int, int], bool | None] | None = None,
    guess_tokens: int = 0,
) -> list[list[int]]:
    """Continues each prompt; returns the new tokens of each, without eos and stop sequences.

    tokens: [B, T] int64, or lists of ids of any lengths up to the context. temperature 0 is
    greedy; the filters are described at `Sampling`. stop: sequences of ids that end a row.
    on_token(row, token) is called for each token as it comes, before stop sequences are cut off;
    a true result ends that row. Row b draws with seed + b. Rows that fill the context go on
    from their last context / 2 tokens, whose positions start from 0 again; each does so by itself,
    so that no row depends on another. guess_tokens: check so many tokens at once that repeat what
    was said before; the result is the same.
    Raises ValueError naming the argument that does not fit, NotImplementedError on a GPU.
    """
    prompts = check_prompts(model, tokens)
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    stops = _check_stops(stop)
    if eos_id is not None:
        check_integer("eos_id", eos_id, 0)
    options = [
        Options(
            max_new_tokens=max_new_tokens, sampling=sampling, seed=row_seed, ignore_eos=True,
            stop_ids=() if eos_id is None else (eos_id,), guess_tokens=guess_tokens, slide=True,
        )
        for row_seed in row_seeds(seed, len(prompts))
    ]  # fmt: skip
    batch = Batch(generator_of(model, prompts, max_new_tokens), model.config.context)
    jobs = [batch.submit(prompt, options[row]) for row, prompt in enumerate(prompts)]
    rows = {id(job): row for row, job in enumerate(jobs)}
    new: list[list[int]] = [[] for _ in prompts]
    while not all(job.done for job in jobs):
        for job in batch.step():
            row = rows[id(job)]
            if _read(job, row, new[row], stops, on_token):
                batch.cancel(job)
    return new


def _read(
    job: Job, row: int, new: list[int], stops: list[list[int]],
    on_token: Callable[[int, int], bool | None] | None,
) -> bool:  # fmt: skip
    """Adds the job's latest tokens to `new`; whether one of them ends the row."""
    for token in job.take().tokens:
        new.append(token)
        ended = on_token is not None and on_token(row, token)
        found = next((s for s in stops if new[-len(s) :] == s), None)
        if found is not None:
            del new[-len(found) :]
        if ended or found is not None:
            return True
    return False


def check_prompts(model: Decoder, prompts: Prompts) -> list[list[int]]:
    """The prompts as lists of ids, or an error that names the prompt and what is wrong."""
    rows = prompts.tolist() if isinstance(prompts, Tensor) else as_lists(prompts)
    if not rows or not all(isinstance(row, list) for row in rows):
        raise ValueError("generate: tokens is empty or flat, expected [B, T] or a list of lists")
    for number, row in enumerate(rows):
        check_prompt(row, f"prompt {number}", model.config.context, model.config.vocab_size)
    return rows


def as_lists(rows: object) -> list[list[int]] | None:
    """Each row as a list; None where these are no rows, as of a flat list."""
    try:
        return [list(row) for row in rows]  # type: ignore[attr-defined]  # what is asked here
    except TypeError:
        return None


def check_prompt(row: list[int], name: str, context: int, vocab_size: int) -> None:
    if not row:
        raise ValueError(f"generate: {name} is empty, expected at least 1 token")
    if len(row) > context:
        raise ValueError(
            f"generate: {name} has {len(row)} tokens, the model's context is {context}; shorten it"
        )
    for token in row:
        if isinstance(token, bool) or not isinstance(token, int):
            raise ValueError(f"generate: {name} holds {token!r}, expected integer token ids")
        if not 0 <= token < vocab_size:
            raise ValueError(
                f"generate: {name} holds token {token}, expected ids from 0 to {vocab_size - 1}"
            )


def _check_stops(stop: Sequence[Sequence[int]] | None) -> list[list[int]]:
    if stop is None:
        return []
    given: object = stop
    if isinstance(given, str) or any(isinstance(s, (str, int)) or not len(s) for s in stop):
        raise ValueError(
            f"generate: stop is {stop!r}, expected sequences of token ids, none empty "
            "(generate_text takes strings)"
        )
    return [list(s) for s in stop]
