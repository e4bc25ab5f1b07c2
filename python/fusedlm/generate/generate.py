"""Token-level generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fusedlm.models.decoder import Decoder

from .decoding import Decoding, Prompts
from .sampling import Sampling


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
    use_cache: bool = True,
) -> list[list[int]]:
    """Continues each prompt; returns the new tokens of each, without eos and stop sequences.

    tokens: [B, T] int64, or lists of ids of any lengths up to the context. temperature 0 is
    greedy; the filters are described at `Sampling`. stop: sequences of ids that end a row.
    on_token(row, token) is called for each token as it comes, before stop sequences are cut off;
    a true result ends that row. Row b draws with seed + b. Rows that outgrow the context go on
    from their last context / 2 tokens. Raises ValueError naming the argument that does not fit.
    """
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    stops = _check_stops(stop)
    decoding = Decoding(
        model, tokens, max_new_tokens=max_new_tokens, sampling=sampling, eos_id=eos_id, seed=seed,
        use_cache=use_cache,
    )  # fmt: skip
    while decoding.active:
        for row, token in decoding.step():
            ended = on_token is not None and on_token(row, token)
            new = decoding.new[row]
            found = next((s for s in stops if new[-len(s) :] == s), None)
            if found is not None:
                del new[-len(found) :]
            if ended or found is not None:
                decoding.finish(row)
    return decoding.new


def _check_stops(stop: Sequence[Sequence[int]] | None) -> list[list[int]]:
    if stop is None:
        return []
    if isinstance(stop, str) or any(isinstance(s, (str, int)) or not len(s) for s in stop):
        raise ValueError(
            f"generate: stop is {stop!r}, expected sequences of token ids, none empty "
            "(generate_text takes strings)"
        )
    return [list(s) for s in stop]
