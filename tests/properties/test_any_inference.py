"""Drawing tokens, and products with quantised weights, with any shapes, layouts and options."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

import fusedlm
from fusedlm import ops
from fusedlm.generate.sampling import Sampling
from tests.support import reference
from tests.support.compare import results_by_threads
from tests.support.drawn import Drawing
from tests.support.properties import kernels_of, memory_of, placed, same_bits
from tests.support.sampling import filtered_probabilities, penalize_repetition

BLOCKS = {"q8_0": 32, "q4_0": 32, "q4_1": 32, "q4_k": 256, "q6_k": 256}
# What x may be rounded to where integers are multiplied: 8 bits in groups of 32.
INTEGER_ERROR = 0.0065


@st.composite
def draws(draw) -> tuple:
    a = Drawing(draw)
    B, V = a.rows(5), a.size()
    logits = a.normal(B, V, scale=a.one_of([0.0, 1.0, 10.0]))
    options = {
        "temperature": a.one_of([0.0, 0.5, 1.0, 3.0]),
        "top_k": a.one_of([None, 0, 1, 3, 200]),
    }
    options |= {"top_p": a.one_of([None, 0.1, 0.9, 1.0]), "min_p": a.one_of([None, 0.05, 1.0])}
    if a.flag():
        options |= {"seen": a.integers(-1, V, B, a.rows(17)), "repetition_penalty": 1.3}
    if a.flag():
        options["rows"] = a.integers(0, 10**6, B)
    return a.isa, logits, {**options, "seed": a.number(0, 2**62), "step": a.number(0, 2**32 - 1)}


@given(draws())
def test_any_token_drawn_is_one_that_the_filters_keep(case):
    isa, logits, options = case
    where = placed(isa, {"logits": logits, **options})
    before = memory_of(where["logits"]).clone()

    def drawn(arguments):
        return [t.cpu() for t in ops.sample(**arguments, return_log_prob=True)]

    with kernels_of(isa):
        (tokens, log_probs), again = results_by_threads(lambda: drawn(where), counts=(1, 2))
    assert torch.equal(tokens, again[0]) and torch.equal(log_probs, again[1])
    with kernels_of("scalar"):
        assert torch.equal(tokens, drawn({"logits": logits, **options})[0])
    assert torch.equal(memory_of(where["logits"]), before)
    if not len(tokens):
        return

    seen = options.get("seen")
    seen = [[]] * len(tokens) if seen is None else [[t for t in r if t >= 0] for r in seen.tolist()]
    wide = penalize_repetition(logits.double(), seen, options.get("repetition_penalty", 1.0))
    if options["temperature"] == 0.0:
        # Equally likely tokens rank by id, but for what float32 makes of the penalty.
        best = wide.max(-1).values
        chosen = wide.gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(chosen, best, rtol=1e-6, atol=0)
        assert not log_probs.any()
        return
    filters = {n: options[n] or None for n in ("top_k", "top_p", "min_p")}
    probs, order = filtered_probabilities(wide, Sampling(options["temperature"], **filters))
    assert_kept(wide / options["temperature"], tokens, **filters)
    chosen = (probs * (order == tokens[:, None])).sum(-1)
    # A filter's edge may fall between two tokens in float64 and beside them in float32.
    kept = chosen > 0
    torch.testing.assert_close(log_probs.exp().double()[kept], chosen[kept], rtol=0.15, atol=1e-4)


def assert_kept(logits, tokens, top_k, top_p, min_p) -> None:
    """Each row's token passes the filters, but for what rounding to float32 does at their edges."""
    own = logits.gather(1, tokens[:, None])
    before = logits > own + 1e-5 * logits.abs().amax(-1, keepdim=True).clamp(min=1.0)
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    of_all = weights.sort(-1, descending=True).values[:, :top_k].sum(-1)
    if top_k is not None:
        assert (before.sum(-1) < top_k).all()
    if top_p is not None:
        assert ((weights * before).sum(-1) < (top_p + 1e-3) * of_all).all()
    if min_p is not None:
        assert (weights.gather(1, tokens[:, None]) > min_p * (1 - 1e-3)).all()


@st.composite
def products(draw) -> tuple:
    a = Drawing(draw, [i for i in fusedlm.available_isas() if i != "simt"])
    dtype = a.one_of([torch.float32, torch.bfloat16])
    formats = [a.one_of(ops.WEIGHT_FORMATS) for _ in range(a.number(1, 3))]
    whole = max(BLOCKS.get(f, 1) for f in formats)
    K = whole * a.one_of([1, 2, 3]) if whole > 1 else a.size()
    gated = len(formats) > 1 and a.flag()
    formats = formats[:2] if gated else formats
    sizes = [a.size(33)] * 2 if gated else [a.size(33) for _ in formats]
    scale = K**-0.5
    weights = [a.normal(n, K, dtype=torch.float32, scale=scale) for n in sizes]
    lead = a.lead(33)
    columns = sizes[0] if gated else sum(sizes)
    options = {
        "bias": [a.maybe(lambda n=n: torch.randn(n, generator=a.generator())) for n in sizes],
        "activation": a.one_of([None, "relu", "gelu", "gelu_tanh", "silu"]),
        "gated": gated,
        "residual": a.maybe(lambda: a.normal(*lead, columns, dtype=dtype)),
    }
    return a.isa, weights, formats, a.normal(*lead, K, dtype=dtype), options


@given(products())
def test_any_product_with_quantised_weights_is_that_of_what_they_hold(case):
    isa, weights, formats, x, options = case
    before = [memory_of(t).clone() for t in (x, *weights)]
    with kernels_of(isa):
        held = [ops.quantize(w, f) for w, f in zip(weights, formats, strict=True)]
        (once,), (twice,) = results_by_threads(
            lambda: [ops.quantized_linear(x, held, **options)], counts=(1, 2)
        )
        matrices = [w.dequantize().double() for w in held]
        rows = x.reshape(-1, x.shape[-1])
        alone = [
            ops.quantized_linear(rows[:1], held, **{**options, "residual": None}),
            ops.quantized_linear(rows[:3], held, **{**options, "residual": None}),
        ]
    assert same_bits(once, twice)
    assert all(torch.equal(memory_of(t), b) for t, b in zip((x, *weights), before, strict=True))
    assert torch.equal(alone[0], alone[1][:1])
    exact, factors = _plain(x.double(), matrices, options)
    if not exact.numel():
        assert once.shape == exact.shape
        return
    # A factor's error is as large as the other factor makes it, however small the product is.
    sizes = [t.norm() for t in (exact, *factors)]
    error = (once.double() - exact).norm() / max(*sizes, exact.numel() ** 0.5)
    unlike = len(rows.unique(dim=0)) * exact.shape[-1]  # rows alike have the same errors
    integers = INTEGER_ERROR * (2**0.5 if factors else 1) * (1 + 3 / unlike**0.5)
    assert error <= (integers if isa == "avx512_bf16" else 1e-5) + torch.finfo(x.dtype).eps * 1.01


def _plain(x, matrices, options):
    biases = [None if b is None else b.double() for b in options["bias"]]
    residual = options["residual"]
    parts = [x @ w.t() + (0 if b is None else b) for w, b in zip(matrices, biases, strict=True)]
    active = reference.ACTIVATIONS[options["activation"]]
    factors = (active(parts[0]), parts[1]) if options["gated"] else ()
    y = factors[0] * factors[1] if factors else active(torch.cat(parts, dim=-1))
    return y if residual is None else y + residual.double(), factors


@given(st.data())
def test_any_quantised_weight_is_near_the_one_given(data):
    a = Drawing(data.draw, [i for i in fusedlm.available_isas() if i != "simt"])
    format = a.one_of(ops.WEIGHT_FORMATS)
    rows, cols = a.rows(17), BLOCKS[format] * a.number(1, 3) if format in BLOCKS else a.size()
    weight = a.normal(rows, cols, dtype=a.one_of([torch.float32, torch.bfloat16]))
    with kernels_of(a.isa):
        held, again = results_by_threads(lambda: [ops.quantize(weight, format).data], counts=(1, 2))
        assert torch.equal(held[0], again[0])
        back = ops.quantize(weight, format).dequantize()
    largest = weight.double().abs().amax(-1, keepdim=True)
    # A step of the coarsest scale, for a whole row: 4 bits cover twice the largest value.
    steps = {"float32": 0.0, "float16": 2**-10, "bfloat16": 2**-8, "int8": 1 / 127, "q8_0": 1 / 127}
    assert (
        (back.double() - weight.double()).abs() <= steps.get(format, 1 / 7) * largest + 1e-7
    ).all()


@st.composite
def tied_cases(draw) -> tuple:
    a = Drawing(draw)
    V, C, N = a.size(), a.size(), a.rows(33)
    weight = a.normal(V, C, dtype=torch.float32, scale=C**-0.5)
    return a.isa, weight, a.integers(0, V, N), a.integers(0, V, N)


@given(tied_cases())
def test_any_tied_weight_gets_the_sum_of_both_gradients(case):
    isa, weight, tokens, targets = case

    def gradient(weight, tokens, targets, split, module, **options):
        leaf = weight.detach().clone().requires_grad_()
        rows, head = split(leaf)
        x = module.embedding(tokens, rows, **options)
        module.linear_cross_entropy(x, head, targets, reduction="sum").backward()
        return leaf.grad

    with kernels_of(isa):
        ours = gradient(*placed(isa, [weight, tokens, targets]), ops.tied, ops, sparse_grad=True)
    exact = gradient(weight.double(), tokens, targets, lambda w: (w, w), reference)
    scale = max(1.0, float(exact.abs().max()))
    torch.testing.assert_close(ours.cpu().double(), exact, rtol=0, atol=2e-5 * scale)
