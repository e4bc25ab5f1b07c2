"""Likelihoods by the engine, against the Decoder in torch and, at the end, a whole corpus of items."""

from __future__ import annotations

import json

import pytest
import torch

from fusedlm import _core
from fusedlm.evaluation import Likelihoods, read_items, score_items
from fusedlm.evaluation.multiple_choice import summary
from fusedlm.generate import LanguageModel, Vocabulary
from fusedlm.models import Decoder, ModelConfig
from tests.support.small import ByteTokenizer, small_model

SHAPE = {"vocab_size": 257, "context": 96, "layers": 2, "width": 32, "heads": 4}
CONFIGS = {
    "gpt2": ModelConfig.gpt2(**SHAPE),
    "llama": ModelConfig.llama(**SHAPE, kv_heads=2),
    "windows": ModelConfig.llama(**SHAPE, windows=[0, 5]),
}


def likelihoods_of(decoder: Decoder, tokenizer=None) -> Likelihoods:
    made = _core.Model.from_tensors(decoder.config.to_dict(), dict(decoder.state_dict()), None)
    model = LanguageModel(made, Vocabulary(tokenizer or ByteTokenizer()), dtype="float32")
    return Likelihoods(model, "float32")


@torch.no_grad()
def by_torch(decoder: Decoder, context: list[int], rest: list[int]) -> tuple[float, bool]:
    logits = decoder(torch.tensor([(context + rest)[:-1]]))[0, len(context) - 1 :]
    log_probs = logits.double().log_softmax(-1)
    targets = torch.tensor(rest)
    found = log_probs.gather(1, targets[:, None]).sum()
    return float(found), bool((log_probs.argmax(-1) == targets).all())


def pairs_of(count: int, longest: int = 30, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    draw = torch.Generator().manual_seed(seed)

    def ids(least: int) -> list[int]:
        size = int(torch.randint(least, longest, (1,), generator=draw))
        return torch.randint(256, (size,), generator=draw).tolist()

    contexts = [ids(1) for _ in range(count)]
    return [(context, ids(1)) for context in contexts for _ in range(3)]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_scores_equal_the_decoders(config):
    decoder = small_model(config)
    pairs = pairs_of(7)
    found = list(likelihoods_of(decoder).pairs(pairs))
    for (context, rest), score in zip(pairs, found, strict=True):
        exact, greedy = by_torch(decoder, context, rest)
        assert score.log_likelihood == pytest.approx(exact, rel=2e-5, abs=2e-5)
        assert score.greedy == greedy


def test_what_the_model_says_itself_is_greedy():
    decoder, context = small_model(CONFIGS["llama"]), [5, 9, 200]
    said = list(context)
    for _ in range(4):
        with torch.no_grad():
            said.append(int(decoder(torch.tensor([said]))[0, -1].argmax()))
    other = [*said[3:-1], (said[-1] + 1) % 256]
    first, second = likelihoods_of(decoder).pairs([(context, said[3:]), (context, other)])
    assert first.greedy and not second.greedy


def test_long_continuations_are_scored_in_pieces_alike(monkeypatch):
    decoder, pairs = small_model(CONFIGS["llama"]), pairs_of(4)
    whole = list(likelihoods_of(decoder).pairs(pairs))
    monkeypatch.setattr("fusedlm.evaluation.likelihood._ROWS", 5)
    monkeypatch.setattr("fusedlm.evaluation.likelihood._TOGETHER", 64)
    pieces = list(likelihoods_of(decoder).pairs(pairs))
    for a, b in zip(whole, pieces, strict=True):
        assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-5)
        assert a.greedy == b.greedy


def test_a_context_too_long_loses_its_beginning_and_is_counted():
    decoder = small_model(CONFIGS["llama"])
    context = [i % 256 for i in range(200)]
    likelihoods = likelihoods_of(decoder)
    (score,) = likelihoods.pairs([(context, [7, 8, 9])])
    assert score.log_likelihood == pytest.approx(
        by_torch(decoder, context[-94:], [7, 8, 9])[0], rel=2e-5
    )
    assert likelihoods.cut == 1
    with pytest.raises(ValueError, match=r"97 tokens.*context of 96"):
        list(likelihoods.pairs([([1], [1] * 97)]))


@pytest.mark.parametrize("stride", [None, 1, 17])
def test_a_text_is_scored_token_by_token_with_the_context_that_fits(stride):
    decoder = small_model(CONFIGS["llama"])
    ids = [(i * i + 3 * i) % 256 for i in range(250)]
    expected, done = 0.0, 1
    while done < len(ids):  # the definition, in the plainest words
        end = min(len(ids), done + (96 if done == 1 or stride is None else stride))
        start = max(0, end - 97)
        expected += by_torch(decoder, ids[start:done], ids[done:end])[0]
        done = end
    assert likelihoods_of(decoder).text(ids, stride) == pytest.approx(expected, rel=2e-5)


def test_spaces_at_the_end_of_a_context_belong_to_the_continuation():
    likelihoods = likelihoods_of(small_model(CONFIGS["llama"]))
    assert likelihoods.encode_pair("a  ", "b") == (list(b"a"), list(b"  b"))
    assert likelihoods.encode_pair("a", " b") == (list(b"a"), list(b" b"))


def test_an_empty_context_is_the_token_that_begins_texts():
    likelihoods = likelihoods_of(small_model(CONFIGS["llama"]))
    assert likelihoods.encode_pair("", "b") == ([256], list(b"b"))


def write_items(path, items):
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def test_items_are_scored_by_likelihood_and_by_likelihood_per_byte(tmp_path):
    decoder = small_model(CONFIGS["gpt2"])
    items = [
        {"query": f"{n} and", "choices": ["one", "seventeen", "ü"], "gold": n % 3} for n in range(9)
    ]
    file = write_items(tmp_path / "items.jsonl", items)
    answers = list(score_items(likelihoods_of(decoder), read_items(file)))
    right = right_norm = 0
    for item, answer in zip(items, answers, strict=True):
        sizes = [3, 9, 2]
        lls = [
            by_torch(decoder, list(item["query"].encode()), list(f" {c}".encode()))[0]
            for c in item["choices"]
        ]
        assert answer.log_likelihoods == pytest.approx(lls, rel=2e-5)
        norm = [x / n for x, n in zip(lls, sizes, strict=True)]
        right += lls.index(max(lls)) == item["gold"]
        right_norm += norm.index(max(norm)) == item["gold"]
    found = summary(answers)
    assert found["acc"] == right / 9 and found["acc_norm"] == right_norm / 9
    assert found["chance"] == pytest.approx(1 / 3) and found["items"] == 9


def test_the_bootstrap_error_is_near_the_formula_and_the_same_for_a_seed():
    from fusedlm.evaluation import bootstrap_error

    values = [1.0] * 60 + [0.0] * 40
    exact = (0.6 * 0.4 / 100) ** 0.5
    assert bootstrap_error(values) == pytest.approx(exact, rel=0.1)
    assert bootstrap_error(values, seed=3) == bootstrap_error(values, seed=3)
    assert bootstrap_error(values, seed=3) != bootstrap_error(values, seed=4)


def test_an_answer_may_be_given_by_its_text_and_other_names_of_the_keys(tmp_path):
    item = {"context": "q", "choices": ["x", "y"], "answer": "y"}
    assert next(read_items(write_items(tmp_path / "i.jsonl", [item]))).gold == 1


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"choices": ["a", "b"], "gold": 0}, "none of query, context, question"),
        ({"query": "q", "choices": ["a"], "gold": 0}, "two or more texts"),
        ({"query": "q", "choices": ["a", ""], "gold": 0}, "two or more texts"),
        ({"query": "q", "choices": ["a", "b"], "gold": 2}, "is 2, expected 0 to 1 or one of them"),
        ({"query": "q", "choices": ["a", "b"], "gold": True}, "is True"),
        ({"query": "q", "choices": ["a", "a"], "gold": "a"}, "is 'a'"),
        ([1], "holds a list"),
    ],
)
def test_bad_items_are_named_by_file_and_line(tmp_path, item, message):
    good = {"query": "q", "choices": ["a", "b"], "gold": 0}
    file = write_items(tmp_path / "items.jsonl", [good, item])
    with pytest.raises(ValueError, match=r"items\.jsonl:2: .*" + message):
        list(read_items(file))
