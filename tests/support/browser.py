"""A real browser for the pages: headless Chromium, driven by selenium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SCREENSHOTS = os.environ.get("FUSEDLM_SCREENSHOTS")  # a folder for pictures of the pages
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"
)


def chromium(width: int, height: int, *logs: str) -> Iterator[webdriver.Chrome]:
    """A browser for a fixture to yield; `logs` beside the console's are kept."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
                     "--disable-gpu", f"--window-size={width},{height}"):  # fmt: skip
        options.add_argument(argument)
    kept = dict.fromkeys(("browser", *logs), "ALL")
    options.set_capability("goog:loggingPrefs", kept)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def shot(browser: webdriver.Chrome, name: str) -> None:
    """Keeps a picture of the page where FUSEDLM_SCREENSHOTS names a folder."""
    if SCREENSHOTS:
        browser.save_screenshot(str(Path(SCREENSHOTS) / f"{name}.png"))
