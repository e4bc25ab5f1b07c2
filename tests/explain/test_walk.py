"""A sentence from tokens to the optimizer's step: what is shown are the model's numbers."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import pytest
import tokenizers
import torch
from rich.console import Console

from fusedlm.data import Tokenizer, train_bpe, train_chars
from fusedlm.explain import (
    Question,
    View,
    attention_maps,
    integrated_gradients,
    lesson_model,
    plot_attention,
    print_walk,
    walk,
)
from fusedlm.explain.labels import token_labels
from fusedlm.explain.rounding import pick, pick_near
from fusedlm.generate import beam_search
from fusedlm.models import Encoder, ModelConfig, find_answers
from fusedlm.models.packed import Packed
from fusedlm.models.spans import encode_windows
from fusedlm.train.pair_batches import PairBatch
from tests.explain.test_trace import (
    DECODER_CLASSIFIERS,
    ENCODERS,
    LABELS,
    TRANSLATORS,
    decoder_classifier,
    small_encoder,
    translator,
)
from tests.models.test_spans import model_of as answers_model
from tests.models.test_spans import with_separators
from tests.support.pairs import small_encoder_decoder
from tests.support.small import CONFIGS, small_model

TEXT = "the quick brown fox"
QUICK = Question(numbers=3, steps=2, attribution_steps=64)


@pytest.fixture(scope="module")
def lesson():
    return lesson_model("我喜欢编程", steps=40)


@pytest.fixture(scope="module")
def shown(lesson):
    return walk(*lesson, "我喜欢编程", QUICK, name="lesson", note="a note")


def decoder(name: str):
    tokenizer = train_chars(TEXT)
    return small_model(replace(CONFIGS[name], vocab_size=tokenizer.vocab_size)), tokenizer


def encoder(name: str):
    tokenizer = train_chars(TEXT)
    return small_encoder(replace(ENCODERS[name], vocab_size=tokenizer.vocab_size)), tokenizer


def classifier(name: str):
    """A decoder that classifies."""
    tokenizer = train_chars(TEXT)
    return decoder_classifier(name, vocab_size=tokenizer.vocab_size), tokenizer


def printed(walk, view: View | None = None) -> str:
    out = io.StringIO()
    print_walk(walk, view, Console(file=out, width=120, highlight=False))
    return out.getvalue()


def test_the_lessons_model_is_the_same_again_and_has_learned(lesson):
    model, tokenizer = lesson
    again, _ = lesson_model("我喜欢编程", steps=40)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    ids = torch.tensor([tokenizer.encode("我喜欢编程")])
    untrained, _ = lesson_model("我喜欢编程", steps=0)
    with torch.no_grad():
        losses = [m(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()) for m in (model, untrained)]
    assert losses[0] < 0.6 * losses[1]


def test_the_lessons_model_takes_characters_and_lengths_that_it_has_not_seen():
    text = "Ünseen ✓ " * 9
    model, tokenizer = lesson_model(text, steps=1)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert model.config.context == len(text)
    with pytest.raises(ValueError, match="text is empty"):
        lesson_model("  ")


def test_the_walk_holds_the_models_numbers(lesson, shown):
    model, tokenizer = lesson
    ids = tokenizer.encode("我喜欢编程")
    data = shown.data
    assert [t["text"] for t in data["tokens"]] == list("我喜欢编程")
    torch.testing.assert_close(shown.weights, attention_maps(model, ids))
    with torch.no_grad():
        shares = model(torch.tensor([ids]))[0].softmax(-1)
    for t, row in enumerate(data["predictions"]):
        assert [g["id"] for g in row] == shares[t].topk(5).indices.tolist()
        assert [g["p"] for g in row] == pytest.approx(shares[t].topk(5).values.tolist(), rel=1e-4)
    losses = [-shares[t, ids[t + 1]].log().item() for t in range(4)]
    assert [row["loss"] for row in data["loss"]["each"]] == pytest.approx(losses, rel=1e-4)
    assert data["loss"]["mean"] == pytest.approx(sum(losses) / 4, rel=1e-4)
    row = model.embedding.weight[ids[2]]
    assert data["embedding"]["token"][2] == pytest.approx(
        [row.norm().item(), *row[:3].tolist()], rel=1e-4
    )
    assert all(off < 1e-4 for off in data["check"].values())
    assert set(data["check"]) == {"logits", "loss", "gradients"}


def test_every_section_is_printed_with_its_numbers(shown):
    text = printed(shown)
    for number, section in enumerate(shown.data["sections"].values(), 1):
        assert f"{number}. {section['title']}" in text
    assert "a note" in text and f"mean: {shown.data['loss']['mean']:.4f}" in text
    for weight in shown.weights[0, 0, 4].tolist():
        assert f"{weight:.3f}" in text
    entry = shown.data["learning"]["parameters"][0]["entry"][0]
    assert f"{entry['before']:.6f}" in text and f"{entry['after']:.6f}" in text


def test_layers_heads_and_a_position_can_be_chosen(shown):
    text = printed(shown, View(layers=(1,), heads=(0, 1), position=1))
    assert "layer 1 of 0 to 1" in text and "layer 0 of" not in text
    assert "query, head 1" in text and "of 喜, head 1" in text
    for view, words in (
        (View(layers=(2,)), "layer is 2, expected 0 to 1"),
        (View(heads=(0, 5)), "head is 5, expected 0 to 1"),
        (View(position=5), "position is 5, expected 0 to 4"),
    ):
        with pytest.raises(ValueError, match=words):
            printed(shown, view)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_kind_of_decoder_is_walked_through(name):
    found = walk(*decoder(name), TEXT, QUICK)
    assert max(found.data["check"].values()) < 1e-4
    assert ("used" in found.data["sections"]) == (name != "gpt2")
    assert ("gate" in found.data["layers"][0]) == (name != "gpt2")
    text = printed(found, View(layers=(0, 1), heads=(3,)))
    assert "3" in text and "AdamW" in text and "logit lens" in text


def test_an_encoder_without_classifier_has_a_vector_and_no_loss():
    found = walk(*encoder("bert, None"), TEXT, QUICK)
    assert {"predictions", "loss", "learning", "attribution", "lens"}.isdisjoint(found.data)
    assert set(found.data["check"]) == {"last layer"}
    assert "The vector of the text" in printed(found)
    with pytest.raises(ValueError, match="target is given, and the encoder has no classifier"):
        walk(*encoder("bert, None"), TEXT, Question(target="yes"))


def test_a_classifier_is_asked_for_a_class():
    model, tokenizer = encoder("roberta, sequence")
    found = walk(model, tokenizer, TEXT, replace(QUICK, target="perhaps"))
    shares = model.classify(torch.tensor([tokenizer.encode(TEXT)]))[0].softmax(-1)
    (row,) = found.data["loss"]["each"]
    assert row["target"] == "perhaps" and row["p"] == pytest.approx(shares[1].item(), rel=1e-4)
    assert found.data["attribution"]["target"] == "perhaps" and not found.data["loss"]["guessed"]
    assert row["p_after"] > row["p"]
    guessed = walk(model, tokenizer, TEXT, QUICK)
    likeliest = ["no", "perhaps", "yes"][int(shares.argmax())]
    assert guessed.data["loss"]["each"][0]["target"] == likeliest
    assert "the likeliest stands for the right one" in printed(guessed)
    with pytest.raises(ValueError, match="target is 'maybe', expected one of no, perhaps, yes"):
        walk(model, tokenizer, TEXT, Question(target="maybe"))
    tokens = walk(*encoder("bert, token"), TEXT, QUICK)
    assert len(tokens.data["loss"]["each"]) == len(TEXT)


@pytest.mark.parametrize("name", DECODER_CLASSIFIERS)
def test_a_decoder_that_classifies_is_walked_through(name):
    model, tokenizer = classifier(name)
    found = walk(model, tokenizer, TEXT, replace(QUICK, top=2))
    assert max(found.data["check"].values()) < 1e-4
    assert set(found.data["check"]) == {"logits", "loss", "gradients"}
    with torch.no_grad():
        shares = model.classify_packed(Packed.of([tokenizer.encode(TEXT)])).softmax(-1)
    rows = found.data["predictions"]
    assert [row[0]["text"] for row in rows] == [LABELS[i] for i in shares.argmax(-1).tolist()]
    p = [row[0]["p"] for row in rows]
    assert p == pytest.approx(shares.amax(-1).tolist(), rel=1e-4)
    assert found.data["attribution"]["target"] == rows[-1][0]["text"]
    assert found.data["lens"]["p"][-1][-1][0] == pytest.approx(p[-1], rel=1e-4)
    layers = {p["layer"] for p in found.data["learning"]["parameters"]}
    assert layers == {None, 0, 1}
    text = printed(found, View(layers=(0, 1), heads=(3,)))
    assert "a decoder that classifies of 2 layers" in text and "layer 1, feed-forward" in text
    for number, section in enumerate(found.data["sections"].values(), 1):
        assert f"{number}. {section['title']}" in text


def test_a_classifier_of_tokens_is_asked_about_the_chosen_one():
    model, tokenizer = encoder("bert, token")
    for position, at in ((4, 4), (-2, len(TEXT) - 2), (None, 1)):
        found = walk(model, tokenizer, TEXT, replace(QUICK, position=position))
        expected = integrated_gradients(model, tokenizer.encode(TEXT), position=at, steps=64)
        shown = found.data["attribution"]
        assert shown["position"] == found.data["position"] == at
        assert shown["target"] == found.data["predictions"][at][0]["text"]
        assert shown["scores"] == pytest.approx(expected.scores.tolist(), rel=1e-4, abs=1e-6)
    assert f"for {shown['target']} at h, log p" in printed(found)
    with pytest.raises(ValueError, match="position is 19, expected 0 to 18"):
        walk(model, tokenizer, TEXT, replace(QUICK, position=19))


ASKED, OSLO = "which city ?", "we saw oslo then we saw green"


def reader() -> tuple[Encoder, Tokenizer]:
    """An encoder that finds answers; its tokenizer puts separators and types around two texts."""
    tokenizer = with_separators()
    return answers_model(tokenizer, heads=2), tokenizer


def test_a_reader_of_answers_is_asked_a_question():
    model, tokenizer = reader()
    (window,) = encode_windows(model, tokenizer, [(ASKED, OSLO)])
    with torch.no_grad():
        types = torch.tensor([window.types])
        shares = model.classify(torch.tensor([window.ids]), types=types)[0].softmax(0)
    question = replace(QUICK, asked=ASKED, target="saw oslo")
    found = walk(model, tokenizer, OSLO, question)
    data, first = found.data, window.first
    assert [t["id"] for t in data["tokens"]] == window.ids and 1 in window.types
    assert max(data["check"].values()) < 1e-4
    assert data["rows"] == ["first", "last"]
    for side, row in enumerate(data["predictions"]):
        assert row[0]["id"] == int(shares[:, side].argmax())
        assert row[0]["p"] == pytest.approx(shares[:, side].max().item(), rel=1e-4)
    losses = [-shares[first + 1, 0].log().item(), -shares[first + 2, 1].log().item()]
    assert [row["target"] for row in data["loss"]["each"]] == ["saw", "oslo"]
    assert [row["loss"] for row in data["loss"]["each"]] == pytest.approx(losses, rel=1e-4)
    assert data["attribution"]["target"] == "saw oslo"
    assert data["attribution"]["after"] == pytest.approx(-sum(losses), rel=1e-4)
    expected = find_answers(model, tokenizer, [(ASKED, OSLO)], top=question.top)[0]
    assert [a["text"] for a in data["answers"]] == [a.text for a in expected]
    assert data["answers"][0]["p"] == pytest.approx(expected[0].probability, rel=1e-3)
    text = printed(found, View(layers=(0,), heads=(0,)))
    assert "an encoder that finds answers" in text and f"Asked {ASKED}" in text
    for number, section in enumerate(data["sections"].values(), 1):
        assert f"{number}. {section['title']}" in text


def test_an_answer_that_is_not_given_is_the_likeliest_and_may_be_none():
    model, tokenizer = reader()
    guessed = walk(model, tokenizer, OSLO, replace(QUICK, asked=ASKED))
    best = max(guessed.data["answers"], key=lambda answer: answer["score"])
    assert guessed.data["attribution"]["target"] == best["text"] != ""
    assert guessed.data["loss"]["guessed"] and "No answer was given" in printed(guessed)
    none = walk(model, tokenizer, OSLO, replace(QUICK, asked=ASKED, target=""))
    assert none.data["attribution"]["target"] == "no answer"
    assert [row["target"] for row in none.data["loss"]["each"]] == ["[CLS]", "[CLS]"]
    for options, words in (
        ({"asked": ASKED, "target": "bergen"}, "target is 'bergen', expected a part of the text"),
        ({}, "asked, the question, is not given"),
    ):
        with pytest.raises(ValueError, match=words):
            walk(model, tokenizer, OSLO, Question(**options))
    with pytest.raises(ValueError, match=r"the text makes \d+ windows of \d+ tokens"):
        walk(model, tokenizer, "we saw oslo " * 200, Question(asked=ASKED))


def translating(name: str = "learned positions"):
    tokenizer = train_chars(TEXT)
    return translator(name, vocab_size=tokenizer.vocab_size), tokenizer


@pytest.mark.parametrize("name", TRANSLATORS)
def test_a_translator_is_walked_through_beside_a_target(name):
    model, tokenizer = translating(name)
    text, wanted = "the fox", "quick"
    found = walk(model, tokenizer, text, replace(QUICK, target=wanted))
    data = found.data
    assert max(data["check"].values()) < 1e-4
    assert set(data["check"]) == {"logits", "loss", "gradients"}
    target = tokenizer.encode(wanted)
    assert [t["id"] for t in data["tokens"]] == [0, *target] and data["target"] == wanted
    ends = [0] * (1 + model.config.examples)
    assert [t["id"] for t in data["source"]["tokens"]] == [*tokenizer.encode(text), *ends]
    source = [tokenizer.encode(text)]
    for name, of in (("maps", "self"), ("cross_maps", "cross"), ("source_maps", "source")):
        maps = attention_maps(model, [0, *target], source=source, of=of)
        torch.testing.assert_close(found.maps[name].weights, maps)
    batch = PairBatch.of([(source, target)], model)
    shares = model(batch.source, batch.target).softmax(-1)
    p = [shares[t, i].item() for t, i in enumerate([*target, 0])]
    assert [row["p"] for row in data["loss"]["each"]] == pytest.approx(p, rel=1e-3)
    assert data["loss"]["guessed"] is None
    # Asked about the last character, of which the row before says how likely it is.
    shown = data["attribution"]
    assert data["position"] == shown["position"] == len(target) - 1 and shown["target"] == "k"
    assert shown["after"] == pytest.approx(math.log(p[-2]), rel=1e-3)
    assert len(shown["scores"]) == len(data["source"]["tokens"])
    assert ("copying" in data) == ("copying" in data["sections"]) == bool(model.config.examples)
    text = printed(found, View(layers=(0,), heads=(3,)))
    for number, section in enumerate(data["sections"].values(), 1):
        assert f"{number}. {section['title']}" in text
    assert "Into quick" in text and "layer 0 of 0 to" in text and "for k after c, log p" in text
    assert (
        "encoder layer 0, attention" in text and "decoder layer 0, attention to the source" in text
    )


def test_what_a_translator_writes_is_its_target_where_none_is_given():
    model, tokenizer = translating()
    found = walk(model, tokenizer, "the fox", replace(QUICK, position=0))
    written = beam_search(model, [tokenizer.encode("the fox")])[0][0].tokens
    assert [t["id"] for t in found.data["tokens"]] == [0, *written]
    assert "what beam search finds" in printed(found)
    assert found.data["position"] == 0 == found.data["attribution"]["position"]


def test_a_translation_that_does_not_fit_is_named():
    model, tokenizer = translating()
    for text, options, words in (
        ("", {}, "text is '', which has no tokens"),
        ("q" * 24, {}, "the text has 24 tokens, expected at most 23"),
        ("q", {"target": "u" * 24}, "target has 24 tokens, expected at most 23"),
        ("q", {"asked": "u?"}, "the model does not find answers"),
        ("q", {"target": "u", "position": 2}, "position is 2, expected 0 to 1"),
    ):
        with pytest.raises(ValueError, match=words):
            walk(model, tokenizer, text, Question(**options))
    long = small_encoder_decoder(vocab_size=tokenizer.vocab_size, context=1100)
    with pytest.raises(
        ValueError, match=r"text and target have 1001 and 2 tokens.* at most 2,097,152"
    ):
        walk(long, tokenizer, "q" * 1000, Question(target="u"))


def test_the_maps_of_a_translation_are_saved_and_drawn(tmp_path):
    model, tokenizer = translating("three layers and one")
    found = walk(model, tokenizer, "the fox", replace(QUICK, target="quick"))
    saved = json.loads(found.save(tmp_path / "walk.json").read_text(encoding="utf-8"))
    for name in ("maps", "cross_maps", "source_maps"):
        torch.testing.assert_close(torch.tensor(saved[name]["weights"]), found.maps[name].weights)
    assert plot_attention(found, tmp_path / "maps.png").stat().st_size > 1000
    printed(found, View(layers=(2,)))  # of which the decoder has none
    with pytest.raises(ValueError, match="layer is 3, expected 0 to 2"):
        printed(found, View(layers=(3,)))


def test_a_target_is_the_token_after_the_text():
    model, tokenizer = decoder("llama")
    found = walk(model, tokenizer, TEXT, replace(QUICK, target="qu"))
    last = found.data["loss"]["each"][-1]
    assert last["position"] == len(TEXT) - 1 and last["target"] == "q"
    assert found.data["attribution"]["target"] == "q"
    without = walk(model, tokenizer, TEXT, QUICK).data["loss"]["each"]
    assert without[-1]["position"] == len(TEXT) - 2


def test_one_token_alone_has_no_loss():
    found = walk(*decoder("gpt2"), "q", QUICK)
    assert "loss" not in found.data and "loss" not in found.data["sections"]
    assert "predictions" in found.data and "Loss" not in printed(found)


def test_parts_can_be_left_out():
    found = walk(*decoder("gpt2"), TEXT, Question(steps=0, attribution_steps=0))
    assert {"loss", "learning", "attribution"}.isdisjoint(found.data)
    assert {"loss", "gradients", "adam", "attribution"}.isdisjoint(found.data["sections"])


def test_what_cannot_be_walked_through_is_named():
    model, tokenizer = decoder("gpt2")
    with pytest.raises(ValueError, match="text is '', which has no tokens"):
        walk(model, tokenizer, "")
    long = small_model(ModelConfig.gpt2(vocab_size=tokenizer.vocab_size, context=2048, layers=2,
                                        width=8, heads=2))  # fmt: skip
    with pytest.raises(ValueError, match=r"1024 tokens.*expected at most 724 tokens"):
        walk(long, tokenizer, "q" * 1024)
    with pytest.raises(ValueError, match="numbers is 0"):
        Question(numbers=0)
    with pytest.raises(ValueError, match="asked is given, and the model does not find answers"):
        walk(model, tokenizer, "q", Question(asked="u?"))


def test_everything_is_saved_as_json_and_hidden_scores_are_null(shown, tmp_path):
    saved = json.loads(shown.save(tmp_path / "walk.json").read_text(encoding="utf-8"),
                       parse_constant=pytest.fail)  # fmt: skip
    assert saved["text"] == "我喜欢编程"
    torch.testing.assert_close(torch.tensor(saved["maps"]["weights"]), shown.weights)
    scores = saved["maps"]["scores"]
    assert scores[0][0][0][1] is None
    assert scores[1][1][4][2] == pytest.approx(shown.scores[1, 1, 4, 2].item(), rel=1e-4)


def test_the_maps_are_plotted_whole_or_not_at_all(shown, tmp_path):
    path = plot_attention(shown, tmp_path / "maps.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OSError):
        plot_attention(shown, tmp_path / "missing" / "maps.png")
    assert [p.name for p in tmp_path.iterdir()] == ["maps.png"]


def test_labels_show_blanks_pieces_of_characters_and_special_tokens():
    tokenizer = train_bpe("the cat sat on the mat " * 9, 270)
    ids = tokenizer.encode(" the\n我<|endoftext|>")
    assert "".join(token_labels(tokenizer, ids)) == "␣the⏎‹E6›‹88›‹91›<|endoftext|>"
    assert token_labels(tokenizer, [999]) == ["<999>"]


def test_of_many_things_the_first_the_wanted_and_the_last_are_picked():
    assert pick(4, 5) == [0, 1, 2, 3]
    assert pick(9, 4, [3]) == [0, None, 3, None, 7, 8]
    assert pick(9, 2, []) == [0, None, 8]


def test_of_many_tokens_those_near_the_shown_one_are_picked():
    assert pick_near(5, 5, 2) == [0, 1, 2, 3, 4]
    assert pick_near(20, 5, 19) == [0, None, 16, 17, 18, 19]
    assert pick_near(20, 5, 10) == [0, None, 8, 9, 10, 11, None]
    assert pick_near(20, 4, 0) == [0, 1, 2, 3, None]


def test_the_digits_are_the_same_for_any_number_of_threads(tmp_path):
    before, files = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found = walk(*decoder("llama"), TEXT, QUICK)
            files.append(found.save(tmp_path / f"{threads}.json").read_bytes())
    finally:
        torch.set_num_threads(before)
    assert files[0] == files[1]


def test_tokens_that_look_like_markup_are_printed_as_they_are():
    words = ["[red]", "[/b]", ":car:", "[link=x]"]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(dict(zip(words, range(4), strict=True)))
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    model = small_model(replace(CONFIGS["gpt2"], vocab_size=4))
    found = walk(model, Tokenizer(inner), " ".join(words), replace(QUICK, top=4))
    text = printed(found)
    assert f"Explaining {' '.join(words)}" in text
    # As tokens, in embeddings, predictions, losses, attributions and elsewhere.
    assert all(text.count(word) > 12 for word in words)
