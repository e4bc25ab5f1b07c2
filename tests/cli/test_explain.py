"""fusedlm explain, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fusedlm.explain
from fusedlm.models import DecoderClassifier, load, save
from tests.explain.test_walk import ASKED, OSLO, reader, translating
from tests.support.tiny import save_tiny_model

QUICK = ("--training-steps", 5, "--steps", 1, "--attribution-steps", 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("explain") / "tiny")


def test_a_sentence_is_enough(run):
    code, out, err = run("explain", "我喜欢编程", *QUICK)
    assert code == 0, err
    assert "No --model was given" in out and "Chinese and English" in out
    for title in ("1. Tokens", "Attention weights", "Logits and probabilities", "AdamW"):
        assert title in out
    assert all(len(line) <= 115 for line in out.splitlines())


def test_what_the_small_model_has_never_seen_is_said(run):
    code, out, _ = run("explain", "I like ✓", *QUICK)
    assert code == 0 and "'✓'" in out
    assert "untrained" in run("explain", "we", "--training-steps", 0, "--steps", 0)[1]


def test_a_model_of_ones_own_and_every_kind_of_file(run, folder, tmp_path):
    files = {kind: tmp_path / "new" / f"walk.{kind}" for kind in ("html", "png", "json")}
    code, out, err = run(
        "explain", "the quick", "--model", folder, "--layer", 0, "--layer", 1, "--head", 2,
        "--numbers", 3, "--top", 2, "--target", " brown", "--steps", 1, "--html", files["html"],
        "--plot", files["png"], "--json", files["json"],
    )  # fmt: skip
    assert code == 0, err
    assert "layer 0 of 0 to 1" in out and "layer 1 of 0 to 1" in out and "head 2" in out
    assert f"written: {files['html']}" in out
    values = json.loads(files["json"].read_text(encoding="utf-8"))
    assert len(values["predictions"][0]) == 2 and len(values["final"][0]) == 1 + 3
    assert values["model"]["heads"] == 4 and values["learning"]["settings"]["lr"] == 1e-5
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert files["html"].read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_decoder_that_classifies_and_the_token_it_is_asked_about(run, folder, tmp_path):
    decoder, tokenizer = load(folder)
    model = DecoderClassifier.of(decoder, ["noun", "verb"], task="token")
    save(tmp_path / "tagger", model, tokenizer)
    code, out, err = run(
        "explain", "the quick", "--model", tmp_path / "tagger", "--position", 1, "--steps", 1,
        "--attribution-steps", 32, "--json", tmp_path / "walk.json",
    )  # fmt: skip
    assert code == 0, err
    assert "a decoder that classifies of 2 layers" in out
    values = json.loads((tmp_path / "walk.json").read_text(encoding="utf-8"))
    assert values["position"] == values["attribution"]["position"] == 1


def test_a_reader_is_asked_a_question_and_its_maps_are_drawn(run, tmp_path):
    save(tmp_path / "reader", *reader())
    files = {kind: tmp_path / f"walk.{kind}" for kind in ("html", "png", "json")}
    asked = ("explain", OSLO, "--model", tmp_path / "reader", "--steps", 1)
    code, out, err = run(
        *asked, "--question", ASKED, "--target", "oslo", "--attribution-steps", 32,
        "--html", files["html"], "--plot", files["png"], "--json", files["json"],
    )  # fmt: skip
    assert code == 0, err
    assert f"Asked {ASKED}" in out and "for oslo, log p" in out
    assert json.loads(files["json"].read_text(encoding="utf-8"))["asked"] == ASKED
    assert all(file.stat().st_size > 1000 for file in files.values())
    code, _, err = run(*asked)
    assert code == 1 and "asked, the question, is not given (--question)" in err


def test_a_translator_is_walked_through_with_its_own_translation_or_a_given_one(run, tmp_path):
    save(tmp_path / "translator", *translating("three layers and one"))
    files = {kind: tmp_path / f"walk.{kind}" for kind in ("html", "png", "json")}
    asked = ("explain", "the fox", "--model", tmp_path / "translator", "--attribution-steps", 32)
    code, out, err = run(
        *asked, "--target", "quick", "--position", 1, "--steps", 1, "--layer", 2, "--html",
        files["html"], "--plot", files["png"], "--json", files["json"],
    )  # fmt: skip
    assert code == 0, err
    assert "Into quick" in out and "for u after q, log p" in out
    assert all(file.stat().st_size > 1000 for file in files.values())
    code, out, err = run(*asked, "--steps", 1)
    assert code == 0 and "what beam search finds stands for the right one" in out
    code, _, err = run(*asked, "--layer", 3)
    assert code == 1 and "layer is 3, expected 0 to 2" in err


def test_quiet_prints_nothing_and_stdin_is_read(run, tmp_path):
    page = tmp_path / "walk.html"
    code, out, err = run("explain", "-", "--quiet", "--html", page, *QUICK, stdin="you like\n")
    assert (code, out, err) == (0, "", "")
    assert '"text":"you like"' in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("", *QUICK), "text is empty"),
        (("caf\udce9", *QUICK), "text holds bytes that are not UTF-8, expected Unicode"),
        (("we", "--layer", 2, *QUICK), "layer is 2, expected 0 to 1"),
        (("we", "--head", 2, *QUICK), "head is 2, expected 0 to 1"),
        (("we", "--position", -3, *QUICK), "position is -3, expected 0 to 1"),
        (("we", "--lr", 0, *QUICK), "lr is 0.0, expected a number above 0"),
        (("we", "--model", "gone"), "gone does not exist"),
    ],
)
def test_what_does_not_fit_is_one_line(run, arguments, words):
    code, _, err = run("explain", *arguments, "--quiet")
    assert code == 1 and err.startswith("error: ") and words in err
    assert len(err.splitlines()) == 1


def test_a_plot_that_fails_leaves_the_other_files_and_dollars_make_none_fail(
    run, tmp_path, monkeypatch
):
    model = save_tiny_model(tmp_path / "$a^{$")
    files = {kind: tmp_path / f"walk.{kind}" for kind in ("html", "png", "json")}
    asked = (
        "explain", "$$", "--model", model, "--steps", 0, "--attribution-steps", 0, "--quiet",
        "--html", files["html"], "--plot", files["png"], "--json", files["json"],
    )  # fmt: skip
    assert run(*asked) == (0, "", "")
    for file in files.values():
        file.unlink()

    def fails(*_):
        raise ValueError("no such font")

    monkeypatch.setattr(fusedlm.explain, "plot_attention", fails)
    code, _, err = run(*asked)
    assert code == 1 and "no such font" in err
    assert [kind for kind, file in files.items() if file.exists()] == ["html", "json"]
