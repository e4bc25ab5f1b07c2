"""The NumPy entry gives the bits of `fusedlm.ops`, takes any array, and never imports torch."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

import fusedlm.numpy as fnp
from fusedlm import ops


def randn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def outputs(result) -> tuple:
    return result if isinstance(result, tuple) else (result,)


def assert_same_as_ops(name: str, arguments: dict) -> None:
    ours = getattr(fnp, name)(**arguments)
    theirs = getattr(ops, name)(**laid_out(arguments, torch.from_numpy))
    for a, b in zip(outputs(ours), outputs(theirs), strict=True):
        assert isinstance(a, np.ndarray) and a.dtype == b.numpy().dtype == np.float32
        np.testing.assert_array_equal(a.view(np.int32), b.numpy().view(np.int32), strict=True)


X, W, V = randn(3, 7, 24), randn(24, seed=1), randn(24, seed=2)
UP, GATE, DOWN = randn(40, 24, seed=3), randn(40, 24, seed=4), randn(24, 40, seed=5)
BIASES = {"up_bias": randn(40, seed=6), "down_bias": V}
TOKENS = np.random.default_rng(7).integers(0, 40, (3, 7))
COS, SIN = fnp.rope_tables(9, 16)
HEADS = randn(3, 7, 2, 24, seed=8)
BLOCK = {"x": X, "up_weight": UP, "down_weight": DOWN}
LOSS = {"x": X, "weight": UP, "targets": TOKENS}

CASES = {
    "embedding": [
        {"tokens": TOKENS, "weight": UP, "padding_idx": -1},
        {"tokens": TOKENS, "weight": UP, "position_weight": GATE},
        {"tokens": TOKENS, "weight": UP, "position_weight": GATE, "positions": np.arange(7) + 2},
    ],
    "group_norm": [
        {"x": randn(3, 24, 5), "groups": 4},
        {"x": randn(3, 24, 5, 2), "groups": 24, "weight": W},
        {"x": randn(3, 24), "groups": 2, "weight": W, "bias": V, "eps": 1e-3},
    ],
    "layer_norm": [
        {"x": X, "weight": W},
        {"x": X, "weight": W, "bias": V, "eps": 1e-3, "residual": randn(3, 7, 24, seed=9)},
    ],
    "rms_norm": [{"x": X, "weight": W}, {"x": X, "weight": W, "eps": 1e-3, "residual": X}],
    "linear": [
        {"x": X, "weight": UP},
        *(
            {
                "x": X, "weight": UP, "bias": BIASES["up_bias"], "activation": activation,
                "residual": randn(3, 7, 40, seed=9),
            }
            for activation in ("relu", "gelu", "gelu_tanh", "silu")
        ),
    ],
    "ffn": [
        *({**BLOCK, "activation": a, "residual": X} for a in ("relu", "gelu", "gelu_tanh")),
        *(
            {**BLOCK, **BIASES, "gate_weight": GATE, "gate_bias": randn(40, seed=9), "activation": a}
            for a in ("swiglu", "geglu")
        ),
    ],
    "rope": [
        {"x": HEADS, "cos": COS, "sin": SIN},
        {"x": HEADS, "cos": COS, "sin": SIN, "interleaved": True, "positions": np.arange(7) + 2},
        {"x": HEADS, "cos": COS, "sin": SIN, "positions": np.arange(21).reshape(3, 7) % 9},
    ],
    "linear_cross_entropy": [
        LOSS,
        {**LOSS, "bias": BIASES["up_bias"], "reduction": "sum", "ignore_index": 3},
        {
            **LOSS, "reduction": "none", "label_smoothing": 0.1, "z_loss": 0.01, "softcap": 4.0,
            "class_weight": np.abs(randn(40, seed=9)),
        },
    ],
}  # fmt: skip


@pytest.fixture
def isa(isa):
    if isa == "cuda":
        pytest.skip("NumPy's arrays are on the CPU")
    return isa


@pytest.mark.parametrize("name", CASES)
def test_same_bits_as_ops(isa, name):
    for arguments in CASES[name]:
        assert_same_as_ops(name, arguments)


B, T, S, H, G, D = 2, 37, 70, 4, 2, 16
QUERY, KEY, VALUE = randn(B, T, H, D), randn(B, S, G, D, seed=1), randn(B, S, G, D, seed=2)
SLOPES = np.array([0.5, 0.25, 0.1, 0.05], np.float32)
PADDING = np.arange(S) < np.array([[S], [50]])
ATTENTION = {
    "plain": {},
    "causal window": {"causal": True, "window": 9},
    "scale": {"scale": 0.5},
    "softcap": {"softcap": 2.0},
    "alibi": {"alibi_slopes": SLOPES, "causal": True},
    "boolean mask": {"mask": randn(T, S, seed=3) > 0},
    "mask per batch": {"mask": randn(B, 1, T, S, seed=4)},
    "mask per head": {"mask": randn(H, 1, S, seed=5)},
    "padding": {"key_padding_mask": PADDING},
    "lengths": {"kv_lengths": np.array([S, 41]), "causal": True},
    "dropout": {"dropout_p": 0.3, "seed": 5},
    "dropout, negative seed": {"dropout_p": 0.3, "seed": -5},
    "everything": {
        "causal": True, "window": 40, "softcap": 3.0, "scale": 0.3, "alibi_slopes": SLOPES,
        "mask": randn(1, H, T, S, seed=6), "key_padding_mask": PADDING, "dropout_p": 0.1, "seed": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("options", ATTENTION.values(), ids=ATTENTION)
def test_attention_same_bits_as_ops(isa, options):
    arguments = {"query": QUERY, "key": KEY, "value": VALUE, **options}
    assert_same_as_ops("attention", arguments)
    assert_same_as_ops("attention", {**arguments, "return_lse": True})


@pytest.mark.parametrize("cu_k", [None, np.array([0, 5, 30, 61])])
def test_packed_sequences_same_bits_as_ops(isa, cu_k):
    arguments = {
        "query": QUERY[:1], "key": KEY[:1], "value": VALUE[:1], "causal": True, "return_lse": True,
        "cu_seqlens_q": np.array([0, 10, 10, 33]), "cu_seqlens_k": cu_k,
    }  # fmt: skip
    assert_same_as_ops("attention", {k: v for k, v in arguments.items() if v is not None})


LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize("scaling", [None, {"type": "linear", "factor": 4.0}, LLAMA3])
def test_rope_tables_equal_those_of_ops(scaling):
    ours = fnp.rope_tables(100, 16, 500.0, scaling=scaling)
    theirs = ops.rope_tables(100, 16, 500.0, scaling=scaling)
    for a, b in zip(ours, theirs, strict=True):  # two libraries' cosines may round differently
        np.testing.assert_allclose(a, b.numpy(), rtol=0, atol=6e-8)
        assert a.dtype == np.float32


def test_signatures_are_those_of_ops():
    torchs = ("sparse_grad", "block_table")  # gradients, and caches
    for name in fnp.__all__:
        ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (fnp, ops))
        assert [(p.name, p.kind, p.default) for p in ours.values()] == [
            (p.name, p.kind, p.default) for p in theirs.values() if p.name not in torchs
        ]


def test_seed_none_draws_from_numpys_generator():
    np.random.seed(3)
    a, b = (fnp.attention(QUERY, KEY, VALUE, dropout_p=0.5) for _ in range(2))
    np.random.seed(3)
    c = fnp.attention(QUERY, KEY, VALUE, dropout_p=0.5)
    assert np.array_equal(a, c) and not np.array_equal(a, b)


def unaligned(a: np.ndarray) -> np.ndarray:
    raw = np.zeros(a.nbytes + 1, np.uint8)
    view = raw[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def field_of_a_record(a: np.ndarray) -> np.ndarray:
    records = np.zeros(a.shape, [("flag", np.uint8), ("value", a.dtype)])
    records["value"] = a
    return records["value"]


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "every other row": lambda a: np.repeat(a, 2, 0)[::2],
    "every other column": lambda a: np.repeat(a, 2, -1)[..., ::2],
    "negative steps": lambda a: np.flip(np.flip(a).copy()),
    "reversed rows": lambda a: a[::-1].copy()[::-1],
    "part of a row": lambda a: np.concatenate([a, a, a], -1)[..., a.shape[-1] : 2 * a.shape[-1]],
    "other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "unaligned": unaligned,
    "field of a record": field_of_a_record,
    "unpickled": lambda a: pickle.loads(pickle.dumps(a)),
    "list": lambda a: a.tolist(),
    "float64": lambda a: a.astype(np.float64) if a.dtype.kind == "f" else a,
    "longdouble": lambda a: a.astype(np.longdouble) if a.dtype.kind == "f" else a,
    "short integers": lambda a: a.astype(np.uint8) if a.dtype.kind == "i" else a,
}


def laid_out(arguments: dict, layout) -> dict:
    return {k: layout(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_sampled_tokens_are_those_of_ops(layout):
    logits, seen = randn(5, 40, seed=1), np.array([[1, 2]] * 5)
    options = {
        "temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.3,
        "seed": 4, "step": 2, "return_log_prob": True,
    }  # fmt: skip
    ours = fnp.sample(layout(logits), seen=layout(seen), rows=layout(np.arange(5) + 3), **options)
    theirs = ops.sample(
        torch.from_numpy(logits), seen=torch.from_numpy(seen), rows=torch.arange(5) + 3, **options
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b.numpy(), strict=True)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", [*CASES, "attention"])
def test_any_layout_and_dtype_equals_the_plain_array(name, layout):
    attention = {"query": QUERY, "key": KEY, "value": VALUE, **ATTENTION["everything"]}
    arguments = attention if name == "attention" else CASES[name][-1]
    call = getattr(fnp, name)
    expected, result = call(**arguments), call(**laid_out(arguments, layout))
    for a, b in zip(outputs(expected), outputs(result), strict=True):
        assert b.dtype == np.float32
        np.testing.assert_array_equal(a, b)


def test_float16_and_integers_are_computed_in_float32():
    half = X.astype(np.float16)
    y = fnp.linear(half, UP)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, fnp.linear(half.astype(np.float32), UP))
    np.testing.assert_array_equal(fnp.linear([[1, 2]], [[3, 4], [5, 6]]), [[11, 17]])


def test_a_broadcast_array_is_read_as_its_copy():
    wide = np.broadcast_to(QUERY[:1], QUERY.shape)
    expected = fnp.attention(wide.copy(), KEY, VALUE)
    np.testing.assert_array_equal(fnp.attention(wide, KEY, VALUE), expected)


def test_bfloat16_of_ml_dtypes_stays_bfloat16():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16

    def bits(a: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(a).view(np.int16)).view(torch.bfloat16)

    x, up = X.astype(bfloat16), UP.astype(bfloat16)
    for layout in (np.asarray, np.asfortranarray, unaligned):
        y = fnp.linear(layout(x), layout(up))
        assert y.dtype == bfloat16
        assert torch.equal(bits(y), ops.linear(bits(x), bits(up)))
    mixed = ops.linear(bits(x), torch.from_numpy(UP))
    assert torch.equal(bits(fnp.linear(x, UP)), mixed)
    out = fnp.embedding(TOKENS, UP, dtype=bfloat16)
    assert torch.equal(bits(out), bits(up)[torch.from_numpy(TOKENS)])
    with pytest.raises(ValueError, match="linear: residual has dtype float32, expected bfloat16"):
        fnp.linear(x, UP, residual=randn(3, 7, 40))


def test_arguments_are_not_written_to():
    for name, cases in CASES.items():
        arguments = {
            k: read_only(v) if isinstance(v, np.ndarray) else v for k, v in cases[-1].items()
        }
        before = pickle.dumps(arguments)
        result = getattr(fnp, name)(**arguments)
        assert pickle.dumps(arguments) == before
        assert all(r.flags.writeable for r in outputs(result))


def test_no_rows_give_no_rows():
    empty = X[:, :0]
    assert fnp.layer_norm(empty, W).shape == (3, 0, 24)
    assert [a.shape for a in fnp.rms_norm(empty, W, residual=empty)] == [(3, 0, 24)] * 2
    assert fnp.linear(empty, UP).shape == (3, 0, 40)
    assert fnp.linear(X, UP[:0]).shape == (3, 7, 0)
    assert fnp.ffn(empty, UP, DOWN).shape == (3, 0, 24)
    assert fnp.embedding([], UP).shape == (0, 24)
    assert fnp.embedding(TOKENS[:, :0], UP, position_weight=GATE).shape == (3, 0, 24)
    assert fnp.rope(HEADS[:, :0], COS, SIN).shape == (3, 0, 2, 24)
    assert fnp.attention(QUERY[:, :0], KEY, VALUE).shape == (B, 0, H, D)
    assert not fnp.attention(QUERY, KEY[:, :0], VALUE[:, :0]).any()
    assert fnp.linear_cross_entropy(empty, UP, TOKENS[:, :0], reduction="none").shape == (3, 0)
    assert fnp.linear_cross_entropy(empty, UP, TOKENS[:, :0], reduction="sum") == 0


def test_vectors_and_scalars_are_rows_of_one():
    np.testing.assert_array_equal(fnp.linear(X[0, 0], UP), fnp.linear(X[:1, 0], UP)[0])
    np.testing.assert_array_equal(fnp.embedding(5, UP), UP[5])
    assert fnp.linear_cross_entropy(X[0, 0], UP, 3).shape == ()


def test_many_dimensions_are_rows():
    x = X.reshape(1, 1, 1, 3, 1, 7, 24)
    np.testing.assert_array_equal(fnp.linear(x, UP).reshape(3, 7, 40), fnp.linear(X, UP))


REAL = "expected real numbers"
BAD = {
    "complex": (lambda: fnp.linear(X.astype(complex), UP), f"linear: x has dtype complex128, {REAL}"),
    "boolean": (lambda: fnp.linear(X > 0, UP), f"linear: x has dtype bool, {REAL}"),
    "object": (lambda: fnp.linear(X.astype(object), UP), f"linear: x has dtype object, {REAL}"),
    "text": (lambda: fnp.rms_norm(X, ["a"] * 24), f"rms_norm: weight has dtype <U1, {REAL}"),
    "time": (lambda: fnp.rms_norm(X.astype("m8[s]"), W), "rms_norm: x has dtype timedelta64"),
    "record": (lambda: fnp.rms_norm(np.zeros(3, "f4,f4"), W), "rms_norm: x has dtype"),
    "none": (lambda: fnp.linear(X, None), "linear: weight is missing"),
    "ragged": (lambda: fnp.linear([[1.0], [1.0, 2.0]], UP), "linear: x is not an array"),
    "masked": (lambda: fnp.linear(np.ma.masked_less(X, 0), UP), "linear: x is a masked array"),
    "scalar": (lambda: fnp.linear(1.0, UP), r"linear: x has shape \[\], expected at least 1"),
    "bias": (lambda: fnp.linear(X, UP, UP), r"linear: bias has shape \[40, 24\], expected 1"),
    "deep weight": (
        lambda: fnp.linear(X, UP.reshape(1, 1, 1, 1, 40, 24)), "linear: weight .* expected 2 dim"),
    "width": (lambda: fnp.linear(X[..., :7], UP), r"linear: weight has shape \[40, 24\], expected 7"),
    "residual": (lambda: fnp.linear(X, UP, residual=X), "linear: residual has shape"),
    "activation": (lambda: fnp.linear(X, UP, activation="tanh"), "linear: activation is 'tanh'"),
    "gate": (lambda: fnp.ffn(X, UP, DOWN, activation="swiglu"), "needs gate_weight"),
    "gate bias": (lambda: fnp.ffn(X, UP, DOWN, gate_bias=W), "ffn: gate_bias is given without"),
    "groups": (lambda: fnp.group_norm(X, 2), r"group_norm: groups is 2, expected .* 7"),
    "no channels": (lambda: fnp.group_norm(W, 2), r"group_norm: x has shape \[24\]"),
    "no width": (lambda: fnp.layer_norm(X[..., :0], W[:0]), "layer_norm: x .* expected C > 0"),
    "token": (lambda: fnp.embedding(TOKENS + 40, UP), "embedding: tokens has .* 0 <= id < V = 40"),
    "float token": (
        lambda: fnp.embedding([1.0], UP), "embedding: tokens has dtype float64, expected integers"),
    "large token": (
        lambda: fnp.embedding(np.array([2**64 - 1], np.uint64), UP),
        "embedding: tokens holds 18446744073709551615, expected values that fit int64"),
    "positions": (
        lambda: fnp.embedding(TOKENS, UP, position_weight=GATE, positions=np.arange(5)),
        r"embedding: positions has shape \[5\], expected one that broadcasts to \[3, 7\]"),
    "lone positions": (
        lambda: fnp.embedding(TOKENS, UP, positions=TOKENS), "given without position_weight"),
    "padding": (lambda: fnp.embedding(TOKENS, UP, padding_idx=40), "embedding: padding_idx is 40"),
    "dtype": (lambda: fnp.embedding(TOKENS, UP, dtype="f8"), "embedding: dtype is float64"),
    "rope x": (lambda: fnp.rope(X, COS, SIN), "rope: x has shape"),
    "rope position": (
        lambda: fnp.rope(HEADS, COS, SIN, positions=np.arange(7) + 3), "rope: positions holds 9"),
    "rope positions": (
        lambda: fnp.rope(HEADS, COS, SIN, positions=np.ones((2, 7), int)),
        r"rope: positions has shape \[2, 7\]"),
    "rope_tables": (lambda: fnp.rope_tables(4, 7), "rope_tables: dim is 7"),
    "scaling": (lambda: fnp.rope_tables(4, 8, scaling={"type": "su"}), "rope_type 'su'"),
    "query": (lambda: fnp.attention(X, KEY, VALUE), "attention: query has shape"),
    "no head width": (
        lambda: fnp.attention(QUERY[..., :0], KEY[..., :0], VALUE[..., :0]), "expected D > 0"),
    "value": (lambda: fnp.attention(QUERY, KEY, VALUE[0]), "attention: value has shape .* 4 dim"),
    "mask": (
        lambda: fnp.attention(QUERY, KEY, VALUE, mask=np.ones((9, S))),
        r"attention: mask has shape \[9, 70\], expected one that broadcasts"),
    "integer mask": (
        lambda: fnp.attention(QUERY, KEY, VALUE, mask=np.ones(S, int)),
        "attention: mask has dtype int64, expected bool or floating"),
    "padding mask": (
        lambda: fnp.attention(QUERY, KEY, VALUE, key_padding_mask=np.ones((B, S))),
        "attention: key_padding_mask has dtype float64, expected bool"),
    "window": (lambda: fnp.attention(QUERY, KEY, VALUE, window=0), "attention: window is 0"),
    "dropout": (lambda: fnp.attention(QUERY, KEY, VALUE, dropout_p=1), "attention: dropout_p is 1"),
    "lengths": (
        lambda: fnp.attention(QUERY, KEY, VALUE, kv_lengths=[3, 71]),
        r"attention: kv_lengths\[1\] is 71, expected 0 to 70"),
    "large length": (
        lambda: fnp.attention(QUERY, KEY, VALUE, kv_lengths=[3, 2**32]),
        "attention: kv_lengths holds 4294967296, expected values that fit int32"),
    "offsets": (
        lambda: fnp.attention(QUERY[:1], KEY[:1], VALUE[:1], cu_seqlens_q=[0, 38]),
        "attention: cu_seqlens_q ends at 38"),
    "no offsets": (
        lambda: fnp.attention(HEADS[:1], HEADS[:1], HEADS[:1], cu_seqlens_q=[]), "must start with"),
    "target": (lambda: fnp.linear_cross_entropy(X, UP, TOKENS + 40), r"targets\[0\] is .* 0 to 39"),
    "targets": (
        lambda: fnp.linear_cross_entropy(X, UP, TOKENS[0]),
        r"linear_cross_entropy: targets has shape \[7\], expected \[3, 7\] as in x"),
    "reduction": (lambda: fnp.linear_cross_entropy(**LOSS, reduction="max"), "reduction is 'max'"),
    "ignored": (lambda: fnp.linear_cross_entropy(**LOSS, ignore_index=2**63), "ignore_index holds"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_window_of_any_size_is_no_window():
    expected = fnp.attention(QUERY, KEY, VALUE)
    for window in (10**6, 2**63 - 1, 2**70):
        np.testing.assert_array_equal(fnp.attention(QUERY, KEY, VALUE, window=window), expected)


WITHOUT_TORCH = """
import sys
import fusedlm.numpy as fnp
import numpy as np

x, weight, vector = np.ones((2, 4)), np.ones((4, 4)), np.ones(4)
heads = np.ones((1, 3, 2, 4))
fnp.embedding([0, 3], weight, position_weight=weight)
fnp.group_norm(x, 2, vector, vector)
fnp.layer_norm(x, vector, vector, residual=x)
fnp.rms_norm(x, vector)
fnp.linear(x, weight, activation="gelu")
fnp.ffn(x, weight, weight, gate_weight=weight, activation="swiglu")
fnp.rope(heads, *fnp.rope_tables(3, 4))
fnp.attention(heads, heads, heads, causal=True, mask=np.ones((3, 3), bool), dropout_p=0.5)
fnp.linear_cross_entropy(x, weight, [0, 1])
fnp.sample(x, top_k=2, seed=0)
assert len(fnp.__all__) == 11  # all of them are called above
assert "torch" not in sys.modules
"""


def test_torch_is_never_imported():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
