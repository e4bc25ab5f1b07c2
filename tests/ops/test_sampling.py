"""Next tokens against plain float64 sampling, on every instruction set."""

from __future__ import annotations

import math

import pytest
import torch

import fusedlm
from fusedlm import ops
from fusedlm.generate.sampling import Sampling
from tests.support.compare import assert_same_bits, randn, results_by_threads
from tests.support.dtypes import DTYPES
from tests.support.sampling import filtered_probabilities, penalize_repetition

FILTERS = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "top_k": {"top_k": 5},
    "top_k of 1": {"top_k": 1},
    "top_p": {"top_p": 0.8},
    "small top_p": {"top_p": 1e-9},
    "min_p": {"min_p": 0.1},
    "min_p of 1": {"min_p": 1.0},
    "all": {"temperature": 1.5, "top_k": 12, "top_p": 0.9, "min_p": 0.05},
    "penalty": {"repetition_penalty": 1.7, "top_p": 0.9},
}
SEEN = [0, 2, 2, 5]


def reference(logits: torch.Tensor, options: dict) -> torch.Tensor:
    """Probabilities [B, V] float64, by token."""
    sampling = Sampling(**options)
    seen = [[t for t in SEEN if t < logits.shape[1]]] * len(logits)
    logits = penalize_repetition(logits.float(), seen, sampling.repetition_penalty)
    probs, tokens = filtered_probabilities(logits, sampling)
    return torch.zeros(logits.shape, dtype=torch.float64).scatter(-1, tokens, probs)


def draw(logits: torch.Tensor, options: dict, **more) -> tuple[torch.Tensor, torch.Tensor]:
    if "repetition_penalty" in options:
        row = [t if t < logits.shape[1] else -1 for t in SEEN]
        more["seen"] = torch.tensor(row).expand(len(logits), -1)
    return ops.sample(logits, **options, **more, return_log_prob=True)


def many(logits: torch.Tensor, draws: int) -> torch.Tensor:
    return logits.expand(draws, -1)


def tied(V: int, seed: int) -> torch.Tensor:
    """Few different values, so that every border runs through equals."""
    return randn(1, V, seed=seed).round().clamp(-2, 2)


def emulated_less(isa: str, draws: int) -> int:
    return draws // 20 if isa == "simt" else draws


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("V", [1, 3, 17, 24, 200])
def test_kept_tokens_and_their_probabilities(isa, V, ties, options, dtype):
    logits = (tied(V, 1) if ties else 3 * randn(1, V, seed=V)).to(dtype)
    exact = reference(logits, options)[0]
    tokens, log_probs = draw(many(logits, emulated_less(isa, 4000)), options, seed=3)
    assert (exact[tokens] > 0).all()
    torch.testing.assert_close(log_probs.double(), exact[tokens].log(), rtol=1e-5, atol=2e-6)
    if isa != "simt":  # with so many draws a token of 1 % is missed once in e^40
        assert set((exact > 0.01).nonzero().flatten().tolist()) <= set(tokens.tolist())


@pytest.mark.parametrize("options", FILTERS.values(), ids=FILTERS)
def test_frequencies_are_the_probabilities(options):
    """Pearson's chi-square over 200000 draws stays below its mean by six of its deviations."""
    logits, draws = 2 * randn(1, 30, seed=7), 200_000
    exact = reference(logits, options)[0]
    tokens, _ = draw(many(logits, draws), options, seed=11)
    expected = exact * draws
    counts = torch.bincount(tokens, minlength=30).double()
    assert counts[exact == 0].sum() == 0
    kept = exact > 0
    chi_square = ((counts - expected)[kept].square() / expected[kept]).sum()
    freedom = int(kept.sum()) - 1
    assert chi_square <= freedom + 6 * math.sqrt(2 * freedom)


LARGE = {
    **{k: FILTERS[k] for k in ("plain", "top_p", "min_p", "all", "penalty")},
    "large top_k": {"top_k": 20_000},
    "flat top_p": {"temperature": 50.0, "top_p": 0.7},
    "top_k and top_p": {"top_k": 3000, "top_p": 0.95},
}


@pytest.mark.parametrize("options", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_large_vocabulary(isa, options, dtype):
    """The log-probability knows the weight of all that is kept, hence the border."""
    logits = (3 * randn(1, 50257, seed=2)).to(dtype)
    exact = reference(logits, options)[0]
    tokens, log_probs = draw(many(logits, 2 if isa == "simt" else 50), options, seed=5)
    assert (exact[tokens] > 0).all()
    torch.testing.assert_close(log_probs.double(), exact[tokens].log(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 2, 37, 64, 65, 299, 300, 1000])
def test_top_k_keeps_exactly_k_the_lower_ids_of_equals(isa, k, ties):
    logits = tied(300, 2) if ties else randn(1, 300, seed=3)
    kept = logits[0].sort(descending=True, stable=True).indices[:k]
    # So hot that all kept tokens are equally likely: each has probability 1 / k.
    tokens, log_probs = draw(
        many(logits, emulated_less(isa, 4000)), {"temperature": 1e9, "top_k": k}, seed=1
    )
    assert set(tokens.tolist()) <= set(kept.tolist())
    torch.testing.assert_close(
        log_probs, torch.full_like(log_probs, -math.log(min(k, 300))), rtol=0, atol=1e-6
    )


def test_every_isa_draws_the_same_tokens():
    logits = 3 * randn(40, 1111, seed=5)
    before, results = fusedlm.isa(), []
    try:
        for name in fusedlm.available_isas():
            fusedlm.set_isa(name)
            results.append([draw(logits, o, seed=9)[0] for o in FILTERS.values()])
    finally:
        fusedlm.set_isa(before)
    assert_same_bits(results)


def test_any_number_of_threads_draws_the_same(isa):
    logits = randn(9, 333, seed=5)
    assert_same_bits(results_by_threads(lambda: list(draw(logits, FILTERS["all"], seed=9))))


def test_temperature_0_takes_the_first_of_the_best(isa):
    logits = torch.tensor([[1.0, 4.0, 4.0, -1.0], [-0.0, 0.0, -3.0, 0.0], [-9.0, -8.0, -7.0, -6.0]])
    tokens, log_probs = draw(logits, {"temperature": 0.0})
    assert tokens.tolist() == [1, 0, 3] and not log_probs.any()
    seen = torch.tensor([[1, 1, -1], [0, -1, -1], [-1, 3, 3]])
    penalized = ops.sample(logits, temperature=0.0, repetition_penalty=2.0, seen=seen)
    assert penalized.tolist() == [2, 0, 2]
    wide = torch.zeros(2, 5000)
    wide[1, 4321] = 1
    assert ops.sample(wide, temperature=0.0).tolist() == [0, 4321]


def test_the_draw_is_counted_by_seed_row_and_step(isa):
    logits = randn(1, 500, seed=1).expand(6, -1)
    tokens = ops.sample(logits, seed=1)
    assert len(set(tokens.tolist())) > 1
    assert torch.equal(tokens, ops.sample(logits, seed=1))
    assert not torch.equal(tokens, ops.sample(logits, seed=2))
    assert not torch.equal(tokens, ops.sample(logits, seed=1, step=1))
    rows = torch.tensor([5, 0, 3])
    assert torch.equal(tokens[rows], ops.sample(logits[:3], seed=1, rows=rows))
    torch.manual_seed(0)
    assert not torch.equal(ops.sample(logits), ops.sample(logits))


def test_philox_gives_the_numbers_of_its_paper(isa):
    """Flat logits show the highest bits of the draw; the reference is written from the paper."""

    def philox(seed: int, row: int, step: int) -> int:
        low = 2**32 - 1
        c = [step, row & low, row >> 32, 0x746F6B65]
        k0, k1 = seed & low, seed >> 32
        for _ in range(10):
            p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [p1 >> 32 ^ c[1] ^ k0, p1 & low, p0 >> 32 ^ c[3] ^ k1, p0 & low]
            k0, k1 = k0 + 0x9E3779B9 & low, k1 + 0xBB67AE85 & low
        return c[1] << 32 | c[0]

    seed, step, rows = 0x123456789ABCDEF, 77, [0, 1, 2**33 + 5]
    tokens = ops.sample(torch.zeros(3, 4096), seed=seed, step=step, rows=torch.tensor(rows))
    assert tokens.tolist() == [philox(seed, row, step) >> 52 for row in rows]


def test_tokens_of_minus_infinity_are_never_drawn(isa):
    logits = torch.full((200, 70), -torch.inf)
    logits[:, 66], logits[:, 3] = 1.0, 1.0
    for options in ({}, {"top_k": 10}, {"top_p": 0.99}, {"temperature": 1e30}, {"min_p": 0.5}):
        assert set(ops.sample(logits, **options, seed=0).tolist()) == {3, 66}


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_temperatures(isa, dtype):
    logits = randn(50, 33, seed=1).to(dtype)
    assert torch.equal(ops.sample(logits, temperature=1e-310, seed=0), logits.argmax(-1))
    assert len(set(ops.sample(logits, temperature=1e300, seed=0).tolist())) > 20


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_rows(isa, dtype):
    wide = randn(4, 3, 80, seed=1).to(dtype)
    for part in (wide[:, -1], wide[:, 1, 3:], wide[:, 1, 8:72], wide[:, :, 5]):
        assert torch.equal(ops.sample(part, seed=1), ops.sample(part.contiguous(), seed=1))


def test_no_rows(isa):
    tokens, log_probs = ops.sample(torch.empty(0, 5), return_log_prob=True)
    assert tokens.shape == log_probs.shape == (0,) and tokens.dtype == torch.int64


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_without_a_distribution_is_named(isa, bad, temperature):
    logits = randn(3, 100, seed=0)
    logits[1, 98] = bad
    if isa == "cuda":  # nobody waits there to look at the values
        for spoilt in (logits, logits.index_fill(0, torch.tensor([1]), -math.inf)):
            tokens, log_probs = ops.sample(spoilt, temperature=temperature, return_log_prob=True)
            assert tokens[1] == -1 and (tokens[[0, 2]] >= 0).all()
            assert log_probs.isnan().tolist() == [False, True, False]
        return
    with pytest.raises(ValueError, match=r"sample: logits\[1\] holds NaN or \+inf"):
        ops.sample(logits, temperature=temperature)
    logits[1] = -math.inf
    with pytest.raises(ValueError, match=r"logits\[1\] .* nothing but -inf"):
        ops.sample(logits, temperature=temperature)


BAD = {
    "temperature is -1": {"temperature": -1.0},
    "temperature is nan": {"temperature": math.nan},
    "temperature is inf": {"temperature": math.inf},
    "top_k is -1": {"top_k": -1},
    "top_p is 0, expected 0 < p <= 1": {"top_p": 0.0},
    "top_p is 1.5": {"top_p": 1.5},
    "min_p is 1.5": {"min_p": 1.5},
    "repetition_penalty is 0": {"repetition_penalty": 0.0, "seen": torch.zeros(2, 1).long()},
    "repetition_penalty is given without seen": {"repetition_penalty": 2.0},
    r"seen has 8 at \[1, 0\], expected -1 <= id < V = 8": {"seen": torch.tensor([[0], [8]])},
    r"seen has shape \[3, 1\]": {"seen": torch.zeros(3, 1).long()},
    "seen has dtype int32": {"seen": torch.zeros(2, 1).int()},
    r"rows has shape \[3\]": {"rows": torch.arange(3)},
    "step is -1": {"step": -1},
}


@pytest.mark.parametrize(("message", "options"), BAD.items(), ids=BAD)
def test_bad_options_are_named(message, options):
    with pytest.raises(ValueError, match=f"sample: {message}"):
        ops.sample(torch.zeros(2, 8), **options)


def test_bad_logits_are_named():
    for logits, message in (
        (torch.zeros(8), r"logits has shape \[8\], expected 2 dimensions"),
        (torch.zeros(2, 8).double(), "logits has dtype float64"),
        (torch.zeros(2, 0), r"logits has shape \[2, 0\], expected 0 < V"),
    ):
        with pytest.raises(ValueError, match=f"sample: {message}"):
            ops.sample(logits)


def test_opcheck_and_compile():
    logits, seen = randn(3, 40, seed=0), torch.tensor([[1], [-1], [5]])
    arguments = (logits, seen, torch.arange(3), 0.8, 10, 0.9, 0.01, 1.2, 5, 1)
    torch.library.opcheck(torch.ops.fusedlm.sample.default, arguments)

    def run(x):
        return ops.sample(x, top_k=4, seed=3)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(logits), run(logits))
    assert not ops.sample(logits.requires_grad_(), return_log_prob=True)[1].requires_grad
