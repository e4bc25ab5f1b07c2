"""Beam search (Sutskever et al. 2014, arXiv:1409.3215) with an encoder-decoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fusedlm.models.encoder_decoder import EncoderDecoder, Source
from fusedlm.models.fields import is_number
from fusedlm.nn.modes import evaluating

from .generate import as_lists, check_prompt
from .target_state import FEWEST, TargetState

_BATCH_ROWS = 512  # hypotheses that grow together: enough to fill the cores
_BATCH_TOKENS = 16384  # of their sources, which bounds the memory

_Way = tuple[float, int, int]  # score, parent, token


@dataclass(frozen=True)
class Hypothesis:
    """Tokens without the end; score is their log-probability, the end's included, over its length
    (with the end) to the power of the length penalty."""

    tokens: list[int]
    score: float


@dataclass
class _Sentence:
    """One source of a search; a filler, which keeps the others company, is done from the start."""

    limit: int
    done: bool = False
    finished: list[Hypothesis] = field(default_factory=list)


@torch.inference_mode()
def beam_search(
    model: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    *,
    examples: Sequence[Source] | None = None,
    beam: int = 4,
    length_penalty: float = 1.0,
    max_length: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[list[Hypothesis]]:
    """The best targets of each source, best first, at most `beam` of them; beam 1 is greedy.

    sources: lists of tokens, without the end; examples: those of each, for a model that reads
    some. In every step the 2 beam likeliest ways to go on are
    looked at; those of the first `beam` that end are kept, and the first `beam` that do not end go
    on, until `beam` are kept. A target has at most `max_length` tokens with its end (None: twice
    its source's and 16), and at most the context; there it has to end. A length_penalty of 0 takes
    the most probable, larger ones prefer longer targets.

    The result of a source is the same, bit for bit, alone and beside others. progress(n) is called
    when n more are done. Raises ValueError naming the argument or the source that does not fit.
    """
    if beam < 1:
        raise ValueError(f"beam_search: beam is {beam}, expected at least 1")
    if not is_number(length_penalty) or length_penalty < 0:
        raise ValueError(f"beam_search: length_penalty is {length_penalty}, expected at least 0")
    if max_length is not None and max_length < 1:
        raise ValueError(f"beam_search: max_length is {max_length}, expected at least 1 or None")
    config = model.config
    rows = as_lists(sources)
    if rows is None:
        raise ValueError("beam_search: sources is flat, expected a list of lists of tokens")
    for number, row in enumerate(rows):
        check_prompt(row, f"source {number}", config.context - 1, config.vocab_size)
    if examples is None:
        examples = [[] for _ in rows]
    if len(examples) != len(rows):
        raise ValueError(
            f"beam_search: examples has {len(examples)} rows, expected {len(rows)} as sources"
        )
    whole: list[Source] = [[row, *given] for row, given in zip(rows, examples, strict=True)]
    _check_examples(model, examples)
    found: list[list[Hypothesis]] = [[] for _ in rows]
    with evaluating(model):
        for chosen in _groups(whole, max(1, _BATCH_ROWS // beam)):
            results = _search(model, [whole[i] for i in chosen], beam, length_penalty, max_length)
            for i, result in zip(chosen, results, strict=True):
                found[i] = result
            if progress is not None:
                progress(len(chosen))
    return found


def _groups(sources: list[Source], most: int) -> Iterator[list[int]]:
    """Numbers of sources that are searched together; those of like lengths end at like times."""
    chosen: list[int] = []
    tokens = 0
    for i in sorted(range(len(sources)), key=lambda i: -len(sources[i][0])):
        size = sum(map(len, sources[i]))
        if chosen and (len(chosen) == most or tokens + size > _BATCH_TOKENS):
            yield chosen
            chosen, tokens = [], 0
        chosen.append(i)
        tokens += size
    if chosen:
        yield chosen


def _check_examples(model: EncoderDecoder, examples: Sequence[Source]) -> None:
    config = model.config
    for number, given in enumerate(examples):
        if len(given) > config.examples:
            raise ValueError(
                f"beam_search: source {number} has {len(given)} examples, the model reads"
                f" {config.examples}"
            )
        for example in given:
            if example:
                name = f"an example of source {number}"
                check_prompt(list(example), name, config.context - 1, config.vocab_size)


def _search(
    model: EncoderDecoder, rows: list[Source], beam: int, length_penalty: float,
    max_length: int | None,
) -> list[list[Hypothesis]]:  # fmt: skip
    end, context = model.config.end_id, model.config.context
    sentences = [_Sentence(min(max_length or 2 * len(row[0]) + 16, context)) for row in rows]
    fewest = -(-FEWEST // beam)  # sentences
    sentences += [_Sentence(0, done=True)] * max(0, fewest - len(rows))
    active = list(range(len(sentences)))
    state = TargetState(model, rows, [min(i, len(rows) - 1) for i in active], beam)
    tokens = torch.full((len(active) * beam,), end)
    scores = torch.full((len(active), beam), -math.inf)
    scores[:, 0] = 0.0  # at first all hypotheses of a sentence are the same one
    history: list[list[int]] = [[]] * len(tokens)
    step = 0
    while not all(sentence.done for sentence in sentences):
        step += 1
        ending = torch.tensor([step >= sentences[i].limit for i in active])
        values, parents, following = _candidates(state.step(tokens), scores, ending, end, beam)
        kept: list[int] = []
        live: list[list[_Way]] = []
        for n, i in enumerate(active):
            ways = zip(values[n], parents[n], following[n], strict=True)
            paths = history[n * beam : (n + 1) * beam]
            live.append(_advance(sentences[i], ways, paths, step, end, beam, length_penalty))
            if not sentences[i].done:
                kept.append(n)
        idle = [n for n in range(len(active)) if n not in set(kept)]
        kept += idle[: max(0, fewest - len(kept))]
        going_on = [(n, *way) for n in kept for way in live[n]]
        scores = torch.tensor([score for _, score, _, _ in going_on]).view(-1, beam)
        tokens = torch.tensor([token for _, _, _, token in going_on])
        history = [[*history[n * beam + parent], token] for n, _, parent, token in going_on]
        chosen = torch.tensor([n * beam + parent for n, _, parent, _ in going_on])
        state.select(torch.tensor(kept), chosen)
        active = [active[n] for n in kept]
    return [
        sorted(sentence.finished, key=lambda h: -h.score)[:beam]
        for sentence in sentences[: len(rows)]
    ]


def _candidates(
    following: Tensor, scores: Tensor, ending: Tensor, end: int, beam: int
) -> tuple[list[list[float]], list[list[int]], list[list[int]]]:
    """The 2 beam best ways to go on of each sentence: their scores, parents and tokens.

    following [n * beam, V] are log-probabilities.
    """
    n, V = len(scores), following.shape[1]
    total = scores[:, :, None] + following.view(n, beam, V)
    if bool(ending.any()):
        others = torch.arange(V) != end
        total = total.masked_fill(ending[:, None, None] & others, -math.inf)
    values, index = total.view(n, beam * V).topk(min(2 * beam, beam * V), dim=1)
    return values.tolist(), (index // V).tolist(), (index % V).tolist()


def _advance(
    sentence: _Sentence, ways: Iterable[_Way], paths: list[list[int]], step: int, end: int, beam: int,
    length_penalty: float,
) -> list[_Way]:  # fmt: skip
    """Keeps what ends; returns those of the `beam` hypotheses that go on."""
    live = []
    for rank, (score, parent, token) in enumerate(ways):
        if score == -math.inf:
            break
        if token != end:
            live.append((score, parent, token))
        elif rank < beam and not sentence.done:
            kept = Hypothesis(paths[parent], score / step**length_penalty)
            sentence.finished.append(kept)
    sentence.done = sentence.done or len(sentence.finished) >= beam or not live
    # Where there are fewer, copies that no step takes up: their score is -inf.
    return (live + [(-math.inf, 0, end)] * beam)[:beam]
