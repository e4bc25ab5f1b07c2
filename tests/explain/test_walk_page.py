"""The page in a real browser: headless Chromium, driven by selenium."""

from __future__ import annotations

import re

import pytest
import torch

pytest.importorskip("selenium")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from fusedlm.explain import Question, View, walk, write_page
from tests.explain.test_trace import DECODER_CLASSIFIERS
from tests.explain.test_walk import (
    ASKED,
    OSLO,
    classifier,
    decoder,
    encoder,
    reader,
    translating,
)
from tests.support.browser import chromium, needs_browser, shot

pytestmark = needs_browser
TEXT = "the <b>fox"


@pytest.fixture(scope="module")
def browser():
    yield from chromium(1000, 800, "performance")


def shape(browser, width: int, height: int, scheme: str = "light") -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def complaints(browser) -> list[str]:
    return [e["message"] for e in browser.get_log("browser") if e["level"] != "DEBUG"]


def text_of(browser, selector: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).text


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """(walk, page) of a decoder with grouped heads, norms on heads and a window in layer 1."""
    model, tokenizer = decoder("qwen")
    question = Question(numbers=4, steps=2, attribution_steps=64)
    found = walk(model, tokenizer, TEXT, question, name="qwen </script>")
    page = write_page(found, tmp_path_factory.mktemp("page") / "walk.html", View((1,), (2,), 5))
    return found, page


@pytest.fixture
def opened(browser, shown):
    shape(browser, 1000, 800)
    browser.get(shown[1].as_uri())
    return shown[0]


def test_the_page_asks_for_nothing_else(browser, opened):
    requests = [
        entry["message"] for entry in browser.get_log("performance")
        if '"Network.requestWillBeSent"' in entry["message"]
    ]  # fmt: skip
    urls = [re.search(r'"url":"([^"]*)"', message).group(1) for message in requests]
    assert all(url.startswith(("file://", "data:")) for url in urls)
    assert sum(url.startswith("file://") for url in urls) <= 1
    assert complaints(browser) == []


def test_names_and_texts_are_shown_and_not_obeyed(browser, opened):
    assert text_of(browser, "h1") == TEXT
    assert "qwen </script>" in text_of(browser, "#facts")
    assert browser.find_elements(By.CSS_SELECTOR, "h1 b") == []


def test_every_section_is_there_with_numbers_of_the_chosen_token_layer_and_head(browser, opened):
    data = opened.data
    titles = [e.text for e in browser.find_elements(By.CSS_SELECTOR, "main h2")]
    assert titles == [f"{n}. {s['title']}" for n, s in enumerate(data["sections"].values(), 1)]
    layer = data["layers"][1]
    for section, vector in (
        ("qkv", layer["query"][2][5]), ("qkv", layer["value"][1][5]),
        ("used", layer["key_used"][1][5]), ("mixed", layer["mixed"][2][5]),
        ("out", layer["middle"][5]), ("ffn", layer["gate"][5]),
    ):  # fmt: skip
        cells = browser.find_elements(By.CSS_SELECTOR, f"#{section} .strip span")
        numbers = [cell.get_attribute("title") for cell in cells]
        assert ",".join(f"{x:g}" for x in vector[1:]) in ",".join(
            f"{float(n):g}" for n in numbers if "in all" not in n
        ), section
    assert f"Mean: {data['loss']['mean']:.4f}" in text_of(browser, "#loss")


def test_choosing_another_token_layer_or_head_shows_its_numbers(browser, opened):
    browser.find_element(By.CSS_SELECTOR, "#chips button:nth-child(4)").click()
    Select(browser.find_element(By.ID, "layer")).select_by_value("0")
    Select(browser.find_element(By.ID, "head")).select_by_value("3")
    expected = opened.data["layers"][0]["query"][3][3][1]
    first = browser.find_element(By.CSS_SELECTOR, "#qkv .strip span")
    assert float(first.get_attribute("title")) == pytest.approx(expected)
    assert "(layer 0, head 3)" in text_of(browser, "#weights")
    small = browser.find_elements(By.CSS_SELECTOR, "#small canvas")
    assert len(small) == 2 * 4
    small[5].click()
    assert "(layer 1, head 1)" in text_of(browser, "#weights")
    select = Select(browser.find_element(By.ID, "parameter"))
    select.select_by_visible_text("blocks.1.ffn.down_weight")
    parameter = next(
        p for p in opened.data["learning"]["parameters"] if p["name"].endswith("1.ffn.down_weight")
    )
    assert str(parameter["index"]) in text_of(browser, "#adam")
    assert complaints(browser) == []


def pointed_at(browser, row: int, column: int, big: str = "big") -> str:
    """What the tip says over a cell of a big map."""
    canvas = browser.find_element(By.ID, big)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    room, top, side = (
        float(canvas.get_attribute(f"data-{name}")) for name in ("room", "top", "side")
    )
    box = canvas.rect
    x, y = room + side * (column + 0.5), top + side * (row + 0.5)
    move = ActionChains(browser)
    move.move_to_element_with_offset(canvas, x - box["width"] / 2, y - box["height"] / 2).perform()
    tip = browser.find_element(By.ID, "tip")
    return tip.text if tip.is_displayed() else ""


def test_pointing_at_a_map_says_the_weight_and_the_score(browser, opened):
    found = pointed_at(browser, 7, 6)
    shot(browser, "explain-map")
    match = re.fullmatch(r"(.+) looks at (.+)\nweight ([\d.]+), score (-?[\d.]+)", found)
    assert match, found
    labels = [token["text"] for token in opened.data["tokens"]]
    assert match.group(1) == labels[7] and match.group(2) == labels[6]
    assert float(match.group(3)) == pytest.approx(opened.weights[1, 2, 7, 6].item(), abs=1e-4)
    assert float(match.group(4)) == pytest.approx(opened.scores[1, 2, 7, 6].item(), abs=1e-3)
    assert "does not see" in pointed_at(browser, 3, 8)  # later
    assert "does not see" in pointed_at(browser, 8, 2)  # beyond the window


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_systems_colours(browser, shown, scheme):
    shape(browser, 1000, 800, scheme)
    browser.get(shown[1].as_uri())
    shot(browser, f"explain-{scheme}")
    back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    light = sum(int(part) for part in back[4:-1].split(",")) > 3 * 128
    assert light == (scheme == "light")


def test_a_phone_scrolls_down_only(browser, shown):
    shape(browser, 390, 800)
    browser.get(shown[1].as_uri())
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= 390
    canvas = browser.find_element(By.ID, "big")
    assert canvas.size["width"] <= 390
    shot(browser, "explain-phone")


@pytest.mark.parametrize("name", [
    "bert, None", "bert, sequence", "roberta, token", "gpt2, the last token", "qwen, each token",
])  # fmt: skip
def test_encoders_and_classifiers_have_a_page_too(browser, tmp_path, name):
    shape(browser, 1000, 800)
    make = classifier if name in DECODER_CLASSIFIERS else encoder
    found = walk(*make(name), "fox", Question(attribution_steps=32, position=1))
    browser.get(write_page(found, tmp_path / "walk.html").as_uri())
    titles = [e.text for e in browser.find_elements(By.CSS_SELECTOR, "main h2")]
    assert len(titles) == len(found.data["sections"])
    assert complaints(browser) == []
    assert torch.isfinite(found.scores).all() == (make is encoder)  # which hides nothing
    if "lens" in found.data:
        last = browser.find_elements(By.CSS_SELECTOR, "#lens tr:last-child td")
        said = [row[0]["text"] for row in found.data["predictions"]]
        assert [cell.text for cell in last] == said
    if found.data["model"]["task"] == "token":
        assert f"For {said[1]} at o: log p" in text_of(browser, "#attribution")


def test_a_reader_of_answers_shows_question_first_last_and_answers(browser, tmp_path):
    shape(browser, 1000, 800)
    question = Question(asked=ASKED, target="oslo", steps=1, attribution_steps=32)
    found = walk(*reader(), OSLO, question)
    browser.get(write_page(found, tmp_path / "walk.html").as_uri())
    assert text_of(browser, "#asked") == f"Asked: {ASKED}"
    titles = [e.text for e in browser.find_elements(By.CSS_SELECTOR, "main h2")]
    assert titles == [
        f"{n}. {s['title']}" for n, s in enumerate(found.data["sections"].values(), 1)
    ]
    heads = [e.text for e in browser.find_elements(By.CSS_SELECTOR, "#logits th:first-child")]
    assert heads == ["first", "last", "answer"]
    answer = browser.find_element(By.CSS_SELECTOR, "#logits .scroll:last-child tbody tr")
    best = found.data["answers"][0]
    assert answer.text.startswith(f"{best['text']} {best['score']:.3f} {100 * best['p']:.1f} %")
    rows = browser.find_elements(By.CSS_SELECTOR, "#loss tbody tr")
    assert [row.text.split()[:2] for row in rows] == [["first", "oslo"], ["last", "oslo"]]
    lens = browser.find_elements(By.CSS_SELECTOR, "#lens tr:first-child th")
    assert [e.text for e in lens] == ["", "first", "last"]
    assert "For oslo: log p" in text_of(browser, "#attribution")
    shot(browser, "explain-reader")
    assert complaints(browser) == []


def strips(browser, section: str) -> list[list[float]]:
    """The numbers of a section's vectors, line by line."""
    lines = browser.find_elements(By.CSS_SELECTOR, f"#{section} .strip")
    cells = [line.find_elements(By.CSS_SELECTOR, "span:not(.more)") for line in lines]
    return [[float(cell.get_attribute("title")) for cell in line] for line in cells]


def test_a_translator_shows_source_target_and_who_looks_at_whom(browser, tmp_path):
    shape(browser, 1000, 800)
    question = Question(numbers=4, target="quick", steps=1, attribution_steps=32, position=2)
    found = walk(*translating("examples that it copies from"), "the fox", question)
    data = found.data
    browser.get(write_page(found, tmp_path / "walk.html", View((1,), (2,))).as_uri())
    assert text_of(browser, "#asked") == "Into: quick"
    titles = [e.text for e in browser.find_elements(By.CSS_SELECTOR, "main h2")]
    assert titles == [f"{n}. {s['title']}" for n, s in enumerate(data["sections"].values(), 1)]
    Select(browser.find_element(By.ID, "head")).select_by_value("3")
    browser.find_element(By.CSS_SELECTOR, "#source button:nth-child(5)").click()
    layer, read = data["layers"][1], data["source"]["layers"][1]
    for section, vectors in (
        ("source-qkv", [read["query"][3][4], read["key"][3][4]]),
        ("qkv", [layer["query"][3][2], layer["key"][3][2]]),
        ("cross-qkv", [layer["cross"]["query"][3][2], layer["cross"]["key"][3][4]]),
        ("cross-out", [layer["middle"][2], layer["cross"]["out"][2], layer["cross"]["middle"][2]]),
        ("source-ffn", [read["ffn_in"][4]]),
    ):  # fmt: skip
        shown = strips(browser, section)
        for number, vector in enumerate(vectors):
            assert shown[number] == pytest.approx(vector[1:]), section
    assert "(layer 1, head 3)" in text_of(browser, "#cross-weights")
    small = browser.find_elements(By.CSS_SELECTOR, "#cross-small canvas")
    assert len(small) == 2 * 4
    assert small[0].get_attribute("width") == str(len(data["source"]["tokens"]))
    tip = pointed_at(browser, 4, 1, "cross-big")
    weight = re.fullmatch(r"c looks at h\nweight ([\d.]+), score -?[\d.]+", tip).group(1)
    assert float(weight) == pytest.approx(
        found.maps["cross_maps"].weights[1, 3, 4, 1].item(), abs=1e-4
    )
    assert "does not see" in pointed_at(browser, 1, 4)
    assert "does not see" not in pointed_at(browser, 1, 4, "source-big")
    copied = f"After u, {100 * data['copying']['share'][2]:.1f} % is copied"
    assert copied in text_of(browser, "#copying")
    assert "For i after u: log p" in text_of(browser, "#attribution")
    said = browser.find_elements(By.CSS_SELECTOR, "#attribution .said span")
    assert [e.text for e in said] == [token["text"] for token in data["source"]["tokens"]]
    shot(browser, "explain-translator")
    assert complaints(browser) == []
    shape(browser, 390, 800)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


def test_a_layer_that_one_half_lacks_shows_its_last(browser, tmp_path):
    shape(browser, 1000, 800)
    question = Question(target="fox", steps=0, attribution_steps=0)
    found = walk(*translating("three layers and one"), "the", question)
    browser.get(write_page(found, tmp_path / "walk.html", View((2,), (1,))).as_uri())
    for section, layer in (("source-weights", 2), ("weights", 0), ("cross-weights", 0)):
        assert f"(layer {layer}, head 1)" in text_of(browser, f"#{section}")
    assert complaints(browser) == []
