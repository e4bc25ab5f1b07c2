"""Generation: the cache changes nothing, rows do not see each other, sampling does as it says."""

from __future__ import annotations

import pytest
import torch

from fusedlm.generate import KVCache, Sampling, generate, generate_text, stream_text
from fusedlm.generate.sampling import choose
from tests.support.small import CONFIGS, ByteTokenizer, small_model

PROMPTS = [[3, 14, 15, 9], [2], [7, 1, 8, 2, 8, 1, 8]]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_with_cache_equal_those_without(isa, name, dtype):
    model = small_model(name)
    model.compute_dtype = dtype
    tokens = torch.randint(61, (2, 20), generator=torch.Generator().manual_seed(1))
    cache = KVCache(model.config, 2, dtype=dtype)
    with torch.no_grad():
        steps = [model(tokens[:, :7], cache=cache)]
        steps += [model(tokens[:, t : t + 1], cache=cache) for t in range(7, 20)]
        whole = model(tokens)[:, 6:]
    error = (torch.stack(steps, 1).float() - whole.float()).abs().max() / whole.float().abs().max()
    assert error < (1e-5 if dtype == torch.float32 else 3e-2)


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_tokens_with_cache_equal_those_without(name):
    model = small_model(name)
    for new in (15, 40):  # 40 outgrows the context of 24
        options = {"max_new_tokens": new, "temperature": 0.0}
        assert generate(model, PROMPTS, **options) == generate(
            model, PROMPTS, use_cache=False, **options
        )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_of_a_ragged_batch_equals_the_row_alone(temperature):
    model = small_model("llama")
    options = {"max_new_tokens": 12, "temperature": temperature}
    together = generate(model, PROMPTS, seed=5, **options)
    for row, prompt in enumerate(PROMPTS):
        assert generate(model, [prompt], seed=5 + row, **options) == [together[row]]


def test_a_seed_repeats_and_no_seed_varies():
    model = small_model("gpt2", spread=1.0)
    draw = lambda seed: generate(model, PROMPTS, max_new_tokens=20, seed=seed)  # noqa: E731
    assert draw(1) == draw(1) != draw(2)
    assert draw(None) != draw(None)


def test_generation_leaves_the_training_mode_and_torchs_generator_alone():
    model = small_model("gpt2").train()
    state = torch.get_rng_state()
    generate(model, PROMPTS, max_new_tokens=3, seed=1)
    assert model.training and torch.equal(torch.get_rng_state(), state)


def choose_often(logits: list[float], count: int = 400, history=(), **settings) -> set[int]:
    rows = torch.tensor([logits]).expand(count, -1)
    generators = [torch.Generator().manual_seed(i) for i in range(count)]
    histories = [list(history)] * count
    return set(choose(rows, Sampling(**settings), histories, generators))


def test_filters_keep_what_they_should():
    logits = [2.0, 1.0, 0.0, -1.0, -2.0]  # probabilities .64 .23 .09 .03 .01
    assert choose_often(logits) == {0, 1, 2, 3, 4}
    assert choose_often(logits, temperature=0.0) == {0}
    assert choose_often(logits, top_k=2) == {0, 1}
    assert choose_often(logits, top_p=0.8) == {0, 1}
    assert choose_often(logits, top_p=0.01) == {0}
    assert choose_often(logits, min_p=0.1) == {0, 1, 2}
    assert choose_often(logits, temperature=0.01) == {0}
    assert choose_often(logits, temperature=0.0, repetition_penalty=3.0, history=[0]) == {1}


def test_draws_follow_the_probabilities():
    rows = torch.tensor([[1.0, 0.0]]).expand(4000, -1)
    generators = [torch.Generator().manual_seed(i) for i in range(4000)]
    drawn = choose(rows, Sampling(temperature=0.5), [[]] * 4000, generators)
    assert drawn.count(0) / 4000 == pytest.approx(1 / (1 + 2.718281828**-2), abs=0.02)


def text_model():
    from fusedlm.models import Decoder, ModelConfig

    torch.manual_seed(2)
    return Decoder(ModelConfig.gpt2(vocab_size=257, context=64, layers=1, width=16, heads=2))


def test_streamed_pieces_join_to_the_text():
    model, tokenizer = text_model(), ByteTokenizer()
    for seed in range(4):
        options = {"max_new_tokens": 60, "seed": seed}
        pieces = list(stream_text(model, tokenizer, "né", **options))
        assert "".join(pieces) == generate_text(model, tokenizer, "né", **options)
        assert len(pieces) > 5


def test_stop_strings_end_the_text_and_are_left_out():
    model, tokenizer = text_model(), ByteTokenizer()
    whole = generate_text(model, tokenizer, "abc", max_new_tokens=60, seed=1)
    stop = whole[20:23]
    cut = generate_text(model, tokenizer, "abc", max_new_tokens=60, seed=1, stop=["@@@@", stop])
    assert cut == whole[: whole.index(stop)]
    assert (
        "".join(stream_text(model, tokenizer, "abc", max_new_tokens=60, seed=1, stop=stop)) == cut
    )


def test_stop_sequences_eos_and_callbacks_end_rows():
    model = small_model("llama")
    (whole,) = generate(model, [[5]], max_new_tokens=15, temperature=0.0)
    at = next(i for i in range(1, 14) if whole[i] not in whole[:i])
    (stopped,) = generate(
        model, [[5]], max_new_tokens=15, temperature=0.0, stop=[whole[at - 1 : at + 1]]
    )
    assert stopped == whole[: at - 1]
    (ended,) = generate(model, [[5]], max_new_tokens=15, temperature=0.0, eos_id=whole[at])
    assert ended == whole[:at]
    seen = []

    def enough(row: int, token: int) -> bool:
        seen.append((row, token))
        return len(seen) == 3

    assert generate(model, [[5]], max_new_tokens=15, temperature=0.0, on_token=enough) == [
        whole[:3]
    ]
    assert seen == [(0, token) for token in whole[:3]]


def test_an_empty_prompt_starts_from_the_end_of_text():
    model = text_model()
    assert len(generate_text(model, ByteTokenizer(), "", max_new_tokens=5, seed=0)) > 0
    with pytest.raises(ValueError, match="prompt 0 is empty, and the tokenizer has no end-of-text"):
        generate_text(model, ByteTokenizer(eos_id=None), "", max_new_tokens=5)


def test_bad_arguments_are_named():
    model = small_model("gpt2")

    def error(prompts=((1, 2),), **options):
        options = {"max_new_tokens": 3, **options}
        with pytest.raises(ValueError) as caught:
            generate(model, [list(p) for p in prompts], **options)
        return str(caught.value)

    assert "prompt 1 is empty" in error([[1], []])
    assert "prompt 0 holds token 61, expected ids from 0 to 60" in error([[61]])
    assert "prompt 0 holds 1.5" in error([[1.5]])
    assert "prompt 0 has 25 tokens, the model's context is 24" in error([[1] * 25])
    assert "max_new_tokens is -1" in error(max_new_tokens=-1)
    assert "temperature" in error(temperature=-0.5)
    assert "top_k" in error(top_k=0)
    assert "top_p" in error(top_p=1.5)
    assert "min_p" in error(min_p=-1.0)
    assert "repetition_penalty" in error(repetition_penalty=0.0)
    assert "stop is" in error(stop="text")
    assert "eos_id" in error(eos_id=-2)
    assert generate(model, [[1]], max_new_tokens=0) == [[]]
    with pytest.raises(TypeError, match="unknown argument 'temprature'"):
        generate_text(text_model(), ByteTokenizer(), "a", temprature=1.0)


def test_a_full_cache_says_so():
    model = small_model("gpt2")
    cache = KVCache(model.config, 1, capacity=4)
    model(torch.tensor([[1, 2, 3]]), cache=cache)
    with pytest.raises(ValueError, match="3 cached and 2 new tokens exceed the capacity of 4"):
        model(torch.tensor([[1, 2]]), cache=cache)
    with pytest.raises(ValueError, match="tokens has 2 rows, the cache has 1"):
        model(torch.tensor([[1], [2]]), cache=cache)
    cache.reset()
    model(torch.tensor([[1, 2, 3, 4]]), cache=cache)
