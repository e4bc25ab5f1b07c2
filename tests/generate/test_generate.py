"""Generation with a `Decoder`: as the whole model says, and rows do not see each other."""

from __future__ import annotations

import pytest
import torch

from fusedlm.generate import generate, generate_text, stream_text
from tests.support.small import CONFIGS, ByteTokenizer, small_model

PROMPTS = [[3, 14, 15, 9], [2], [7, 1, 8, 2, 8, 1, 8]]


def greedy_by_the_whole(model, prompt: list[int], count: int) -> list[int]:
    """Token by token through `Decoder.forward`, forgetting the older half of a full context."""
    seen, new, context = list(prompt), [], model.config.context
    for _ in range(count):
        if len(seen) >= context:
            seen = seen[-(context // 2) :]
        with torch.no_grad():
            new.append(int(model(torch.tensor([seen]))[0, -1].argmax()))
        seen.append(new[-1])
    return new


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("count", [15, 60])  # 60 outgrows the context of 24 several times
def test_greedy_tokens_equal_those_of_the_whole_model(name, count):
    model = small_model(name)
    expected = [greedy_by_the_whole(model, prompt, count) for prompt in PROMPTS]
    assert generate(model, PROMPTS, max_new_tokens=count, temperature=0.0) == expected


@pytest.mark.parametrize("name", CONFIGS)
def test_guessing_ahead_changes_nothing(name):
    model = small_model(name)
    options = {"max_new_tokens": 18, "temperature": 0.0}
    prompts = [[1, 2, 3, 1, 2]]
    assert generate(model, prompts, guess_tokens=4, **options) == generate(
        model, prompts, **options
    )


def test_the_latest_weights_are_used():
    model = small_model("llama")
    options = {"max_new_tokens": 10, "temperature": 0.0}
    for dtype in (torch.float32, torch.bfloat16):
        model.compute_dtype = dtype
        before = generate(model, PROMPTS, **options)
        with torch.no_grad():
            model.head_weight.copy_(model.head_weight.roll(1, 0))
        after = generate(model, PROMPTS, **options)
        assert after != before
        with torch.no_grad():
            model.head_weight.data = model.head_weight.roll(-1, 0)
        assert generate(model, PROMPTS, **options) == before


def test_an_optimizer_step_is_seen():
    from fusedlm.optim import AdamW

    model = small_model("gpt2")
    model.compute_dtype = torch.bfloat16
    options = {"max_new_tokens": 10, "temperature": 0.0}
    before = generate(model, PROMPTS, **options)
    tokens = torch.randint(61, (2, 20), generator=torch.Generator().manual_seed(1))
    model.train()
    model(tokens, tokens.roll(-1, 1)).backward()
    AdamW(model.parameters(), lr=0.5).step()
    assert generate(model, PROMPTS, **options) != before


def test_a_model_that_is_not_on_the_cpu_is_refused():
    with pytest.raises(NotImplementedError, match="the model is on meta"):
        generate(small_model("gpt2").to("meta"), PROMPTS, max_new_tokens=3)


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


def test_sampling_options_reach_the_draw():
    model = small_model("gpt2")
    greedy = generate(model, PROMPTS, max_new_tokens=12, temperature=0.0)
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-4}):
        assert generate(model, PROMPTS, max_new_tokens=12, seed=1, **narrow) == greedy
    assert generate(model, PROMPTS, max_new_tokens=12, seed=1, temperature=3.0) != greedy
    for prompt, new in zip(
        PROMPTS,
        generate(model, PROMPTS, max_new_tokens=12, temperature=0.0, repetition_penalty=1e6),
        strict=True,
    ):
        assert not set(prompt) & set(new) and len(set(new)) == len(new)


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


def test_a_flat_prompt_is_refused_by_name():
    with pytest.raises(ValueError, match="tokens is empty or flat, expected"):
        generate(small_model("llama"), [1, 2], max_new_tokens=1)
