"""Answers in texts: windows, their loss, and the search for the likeliest part."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tokenizers import processors

from fusedlm.data import Tokenizer, train_words
from fusedlm.models import Encoder, EncoderConfig, find_answers
from fusedlm.models.packed import Packed, span_loss
from fusedlm.models.spans import answers_in, encode_windows, margin
from tests.support.kinds import kind_encoder, kind_questions, kind_tokenizer
from tests.support.small import small_model


def model_of(tokenizer, **changes) -> Encoder:
    torch.manual_seed(0)
    model = kind_encoder(tokenizer, task="span", **changes).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(40)
    return model


def with_separators() -> Tokenizer:
    """[CLS] question [SEP] text [SEP], with types, as BERT's."""
    tokenizer = kind_tokenizer()._inner
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    ids = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ids
    )
    return Tokenizer(tokenizer)


@pytest.mark.parametrize("make", [kind_tokenizer, with_separators])
def test_windows_cover_the_text_and_overlap_and_know_the_characters_of_each_token(make):
    tokenizer = make()
    text = "  Red and\tgreen; BLUE?  " + "we saw oslo then " * 12
    pairs = [("which city ?", text), ("which city ?", "oslo")]
    windows = encode_windows(model_of(tokenizer), tokenizer, pairs, longest=18)
    assert [w.question for w in windows] == sorted(w.question for w in windows)
    long = [w for w in windows if w.question == 0]
    assert len(long) > 3 and all(len(w.ids) <= 18 for w in windows)
    covered = set()
    for w in long:
        for token in range(w.first, w.end):
            begin, end = w.spans[token]
            word = text[begin:end].lower()
            assert tokenizer.token(w.ids[token]) in (word, "<|unknown|>")
            covered.update(range(begin, end))
        assert {w.types[t] for t in range(w.first, w.end)} == {1} or make is kind_tokenizer
    assert covered == {i for i, c in enumerate(text) if not c.isspace()}
    for before, after in itertools.pairwise(long):
        assert before.spans[before.end - 1][0] >= after.spans[after.first + 5][0]


def test_an_answer_is_found_in_a_window_only_where_it_is_whole():
    tokenizer = kind_tokenizer()
    (window,) = encode_windows(
        model_of(tokenizer), tokenizer, [("which ?", "we saw red oslo then")]
    )
    first = window.first
    assert window.tokens_of(7, 10) == (first + 2, first + 2)  # "red"
    assert window.tokens_of(7, 15) == (first + 2, first + 3)  # "red oslo"
    assert window.tokens_of(8, 14) == (first + 2, first + 3)  # "ed osl" is in these tokens
    assert window.tokens_of(20, 24) is None


def test_the_end_of_a_question_that_leaves_no_room_is_left_out():
    tokenizer = kind_tokenizer()
    model = model_of(tokenizer)
    windows = encode_windows(
        model, tokenizer, [("which city ? " * 50, "oslo then rome")], longest=16
    )
    assert all(len(w.ids) <= 16 and w.first == 5 for w in windows)
    with pytest.raises(ValueError, match="longest is 15, expected at least 16"):
        encode_windows(model, tokenizer, [("?", "oslo")], longest=15)


def test_the_loss_is_the_mean_of_both_ends_cross_entropies_and_so_are_its_gradients():
    torch.manual_seed(1)
    lengths = [5, 1, 9]
    packed = Packed.of([[0] * n for n in lengths])
    logits = torch.randn(sum(lengths), 2, requires_grad=True)
    targets = torch.tensor([[1, 4], [0, 0], [8, 8]])
    loss = span_loss(logits, packed, targets)
    terms = [
        torch.nn.functional.cross_entropy(part[:, end], target[end])
        for part, target in zip(logits.split(lengths), targets, strict=True)
        for end in (0, 1)
    ]
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(each, logits)[0] for each in (loss, expected))
    torch.testing.assert_close(found, wanted)
    for wrong in ([[1, 5], [0, 0], [0, 0]], [[-1, 0], [0, 0], [0, 0]], [[0, 0]]):
        with pytest.raises(ValueError, match="not all within the 3 sequences"):
            span_loss(logits, packed, torch.tensor(wrong))


def brute_force(windows, logits, longest):
    """(score, start, end) of every answer, and the score of "no answer"."""
    found, nothing = [], []
    for window, scores in zip(windows, logits, strict=True):
        nothing.append(float(scores[0].sum()))
        for a in range(window.first, window.end):
            for b in range(a, min(a + longest, window.end)):
                score = float(scores[a, 0] + scores[b, 1])
                found.append((score, window.spans[a][0], window.spans[b][1]))
    return sorted(found, reverse=True), min(nothing), nothing


@pytest.mark.parametrize("longest", [1, 3, 40])
def test_the_likeliest_parts_of_all_windows_are_found_with_their_probabilities(longest):
    torch.manual_seed(2)
    tokenizer = kind_tokenizer()
    text = "we saw red oslo then they went by on foot and green rome there " * 3
    windows = encode_windows(model_of(tokenizer), tokenizer, [("which ?", text)], longest=16)
    logits = [3 * torch.randn(len(w.ids), 2) for w in windows]
    ((best, *others, nothing),) = answers_in(
        [("which ?", text)], windows, logits, top=3, longest_answer=longest
    )
    found, none, _ = brute_force(windows, logits, longest)
    assert best.score == pytest.approx(found[0][0])
    assert (best.start, best.end) == found[0][1:] and best.text == text[best.start : best.end]
    assert nothing.text == "" and nothing.score == pytest.approx(none)
    total = math.log(sum(math.exp(s) for s, *_ in found) + math.exp(none))
    for each in (best, *others, nothing):
        assert each.probability == pytest.approx(math.exp(each.score - total), rel=1e-4)
    assert margin([best, nothing]) == pytest.approx(none - found[0][0])
    for a, b in itertools.combinations([best, *others], 2):
        assert a.score >= b.score and (a.end <= b.start or b.end <= a.start)


def test_answers_are_the_same_alone_and_beside_others_and_for_any_batch():
    tokenizer = with_separators()
    model = model_of(tokenizer, layers=2)
    pairs = [(q.question, q.context) for q in kind_questions(20, 0)]
    together = find_answers(model, tokenizer, pairs, top=2)
    alone = [find_answers(model, tokenizer, [pair], top=2)[0] for pair in pairs]
    assert together == alone


def test_token_types_tell_the_text_from_the_question():
    tokenizer = with_separators()
    model = model_of(tokenizer)
    with torch.no_grad():
        model.type_weight[1] += 3.0
    pair = [("which city ?", "we saw oslo")]
    (typed,) = find_answers(model, tokenizer, pair)
    with torch.no_grad():
        model.type_weight[1] = model.type_weight[0]
    (untyped,) = find_answers(model, tokenizer, pair)
    assert typed[0].score != untyped[0].score


def test_another_kind_of_model_and_bad_numbers_are_refused():
    tokenizer = train_words(["a b"], 9)
    other = Encoder(EncoderConfig(9, layers=1, width=8, heads=2))
    with pytest.raises(ValueError, match="task is None, expected 'span'"):
        find_answers(other, tokenizer, [("a", "b")])
    with pytest.raises(ValueError, match="task is None, expected 'span'"):
        find_answers(small_model("llama"), tokenizer, [("a", "b")])
    model = model_of(tokenizer)
    for name in ("top", "longest_answer"):
        with pytest.raises(ValueError, match=f"{name} is 0, expected at least 1"):
            find_answers(model, tokenizer, [("a", "b")], **{name: 0})
    with pytest.raises(ValueError, match=r"labels is \['x'\], expected \['start', 'end'\] or None"):
        EncoderConfig(9, layers=1, width=8, heads=2, task="span", labels=["x"])
