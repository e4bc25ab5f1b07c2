"""The chat page in a real browser: headless Chromium, driven by selenium."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("uvicorn")
selenium = pytest.importorskip("selenium")

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from tests.support.browser import chromium, needs_browser, shot  # noqa: E402
from tests.support.fake_engine import FakeGenerator, Gate, fake_language_model  # noqa: E402
from tests.support.server import serving, until  # noqa: E402

pytestmark = needs_browser


@pytest.fixture(scope="module")
def browser():
    yield from chromium(900, 700)


def wait(browser, condition):
    return WebDriverWait(browser, 20, poll_frequency=0.02).until(lambda _: condition())


def texts(browser, kind: str) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)", f".{kind}"
    )


def say(browser, text: str) -> None:
    browser.find_element(By.ID, "prompt").send_keys(text, Keys.ENTER)


def finished(browser) -> bool:
    return browser.find_element(By.ID, "send").is_displayed()


def complaints(browser) -> list[str]:
    """What the page itself did wrong; answers with an error status are told apart."""
    return [
        entry["message"]
        for entry in browser.get_log("browser")
        if entry["level"] == "SEVERE" and "Failed to load resource" not in entry["message"]
    ]


def test_a_conversation_streams_and_the_model_gets_all_of_it(browser):
    generator = FakeGenerator(before_step=lambda: time.sleep(0.005))
    with serving(fake_language_model(lambda: generator, context=256)) as server:
        browser.get(server.address)
        wait(browser, lambda: "fake" in browser.find_element(By.TAG_NAME, "h1").text)
        browser.find_element(By.ID, "toggle").click()
        browser.find_element(By.ID, "system").send_keys("be kind")
        limit = browser.find_element(By.ID, "max_tokens")
        limit.clear()
        limit.send_keys("5")
        shot(browser, "settings")
        browser.find_element(By.ID, "toggle").click()
        say(browser, "hi <b>")
        wait(browser, lambda: texts(browser, "assistant") == ["abcde"] and finished(browser))
        assert texts(browser, "user") == ["hi <b>"]
        assert "cut off" in texts(browser, "note")[0]
        say(browser, "more")
        wait(browser, lambda: len(texts(browser, "assistant")) == 2 and finished(browser))
        shot(browser, "chat")
        prompt = bytes(generator.submitted[-1]["prompt"]).decode()
        assert prompt == "[system]be kind[user]hi <b>[assistant]abcde[user]more[assistant]"
        browser.find_element(By.ID, "reset").click()
        assert texts(browser, "message") == []
        assert complaints(browser) == []


def test_stop_ends_the_answer_and_keeps_what_came(browser):
    gate = Gate()
    steps = []

    def hold_after_three() -> None:
        steps.append(1)
        if len(steps) > 3:
            gate()

    generator = FakeGenerator(before_step=hold_after_three)
    with serving(fake_language_model(lambda: generator)) as server:
        browser.get(server.address)
        say(browser, "hi")
        wait(browser, lambda: texts(browser, "assistant") == ["abc"])
        assert "busy" in browser.find_element(By.CSS_SELECTOR, ".assistant").get_attribute("class")
        shot(browser, "busy")
        browser.find_element(By.ID, "stop").click()
        wait(browser, lambda: finished(browser))
        assert "stopped" in texts(browser, "note")
        gate.open()
        until(lambda: generator.cancelled == [0])
        assert texts(browser, "assistant") == ["abc"]


def test_errors_are_shown_and_the_key_can_be_given(browser):
    with serving(fake_language_model(), api_key="secret") as server:
        browser.get(server.address)
        wait(browser, lambda: any("API key" in note for note in texts(browser, "error")))
        field = browser.find_element(By.ID, "key")
        wait(browser, field.is_displayed)
        field.send_keys("secret")
        say(browser, "hi")
        wait(browser, lambda: texts(browser, "assistant")[:1] and finished(browser))
        assert texts(browser, "assistant")[0].startswith("abc")
        shot(browser, "key")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_systems_colours(browser, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    with serving(fake_language_model()) as server:
        browser.get(server.address)
        say(browser, "What do you know by heart?")
        wait(browser, lambda: texts(browser, "assistant") and finished(browser))
        shot(browser, scheme)
        back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        light = sum(int(part) for part in back[4:-1].split(",")) > 3 * 128
        assert light == (scheme == "light")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
