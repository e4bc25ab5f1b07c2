"""Which tokens count in fine-tuning on conversations, and that a run goes on where it stopped."""

from __future__ import annotations

import pytest
import torch

from fusedlm.data.labelled import Skipped
from fusedlm.data.tokenizer import Tokenizer, train_bpe
from fusedlm.models import ModelConfig
from fusedlm.train import AnswerTokens, ChatTuning, TrainConfig, fit
from fusedlm.train.answer_tokens import with_template
from tests.support.small import small_model
from tests.support.tiny import TEXT

MERGING = (  # no special token and no line end before an answer: tokens may reach over its edges
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}"
    "{{ eos_token if m.role == 'assistant' }}{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)
TALK = [
    {"role": "user", "content": "the quick"},
    {"role": "assistant", "content": "brown fox"},
    {"role": "user", "content": "jumps"},
    {"role": "assistant", "content": "over the dog"},
]


def tokenizer(template: str | None = None) -> Tokenizer:
    trained = train_bpe(TEXT + "a:brown fox a:over the dog" * 50, 330)
    return with_template(trained, *([template] if template else []))


@pytest.mark.parametrize("template", [None, MERGING])
def test_the_loss_counts_on_answers_and_their_end_alone(template):
    words = tokenizer(template)
    tokens, targets = AnswerTokens(words, 200).encode(TALK)
    counted = [t for t in targets if t != -100]
    answers, answer = [], []
    for token in counted:
        answer.append(token)
        if token == words.eos_id:
            answers.append(words.decode(answer))
            answer = []
    assert answers == ["brown fox", "over the dog"] and not answer
    assert all(t in (-100, n) for t, n in zip(targets, tokens[1:], strict=False))


def test_an_answer_begins_where_generation_begins():
    words = tokenizer(MERGING)
    tokens, targets = AnswerTokens(words, 200).encode(TALK[:2])
    first = next(i for i, t in enumerate(targets) if t != -100)
    assert tokens[: first + 1] == words.encode("u:the quicka:")


def test_with_last_only_the_last_answer_counts():
    words = tokenizer()
    _, targets = AnswerTokens(words, 200).encode(TALK, last=True)
    assert words.decode([t for t in targets if t != -100]) == "over the dog"


@pytest.mark.parametrize(
    ("messages", "context", "reason"),
    [
        (TALK, 10, "more than 10 tokens, the context"),
        ([{**TALK[0], "content": "<|endoftext|>"}, TALK[1]], 200, "the token that ends answers"),
        (TALK[1:], 200, "the first message is the assistant's"),
    ],
)
def test_what_cannot_be_trained_on_is_counted_with_its_reason(messages, context, reason):
    skipped = Skipped()
    short = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    answers = AnswerTokens(tokenizer(MERGING), context)
    data = answers.encode_all([short, messages], skipped, "training")
    assert len(data.rows) == 1 and reason in next(iter(skipped.counts))
    assert [*skipped.first.values()] == ["training conversation 2"]
    placed = Skipped()
    answers.encode_all([short, messages], placed, "training", ["a.jsonl:1", "a.jsonl:7"])
    assert [*placed.first.values()] == ["a.jsonl:7"]
    with pytest.raises(ValueError, match="no conversation is left"):
        answers.encode_all([messages], skipped, "training")


def task(config: TrainConfig) -> ChatTuning:
    words = tokenizer()
    talks = [TALK[:2], TALK[2:], TALK, [TALK[2], TALK[1]], [TALK[0], TALK[3]]]
    data = AnswerTokens(words, 64).encode_all(talks, Skipped(), "training")
    shape = ModelConfig.llama(
        vocab_size=words.vocab_size, context=64, layers=1, width=32, heads=2, tied=True
    )
    return ChatTuning(small_model(shape, spread=1.0), words, data, data, config)


def test_a_resumed_run_ends_with_the_bits_of_one_that_never_stopped(tmp_path):
    config = {
        "batch": 2,
        "eval_every": 3,
        "save_every": 3,
        "warmup": 0,
        "min_lr_ratio": 1.0,
        "lr": 1e-2,
    }
    whole, half = TrainConfig(steps=6, **config), TrainConfig(steps=3, **config)
    through = task(whole)
    result = fit(through, whole, tmp_path / "a", progress=False)
    fit(task(half), half, tmp_path / "b", progress=False)
    again = task(whole)
    fit(again, whole, tmp_path / "b", resume=True, progress=False)
    for name, value in through.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    assert result.best["val_loss"] < 5


def test_the_held_out_loss_does_not_depend_on_how_it_is_batched():
    losses = [task(TrainConfig(batch=b)).evaluate()["val_loss"] for b in (1, 2, 5)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
