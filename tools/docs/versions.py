"""The versions of the site side by side: a folder each, a list for the selector, and a page of them."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from .guides import ROOT

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fusedlm: versions of the documentation</title>
<style>body {{ font: 1rem/1.6 system-ui, sans-serif; margin: 3rem auto; max-width: 40rem }}</style>
<h1>fusedlm</h1>
<p>The documentation of:</p>
<ul>
{items}
</ul>
</html>
"""


def current() -> str:
    """What the headers of this tree say."""
    text = (ROOT / "csrc/include/fusedlm/version.h").read_text(encoding="utf-8")
    match = re.search(r'define FUSEDLM_VERSION "([^"]+)"', text)
    assert match, "version.h defines no FUSEDLM_VERSION"
    return match[1]


def write_list(site: Path, url: str) -> None:
    """versions.json, which the selector reads, and index.html, of the versions found in `site`.

    `url` is where `site` will be served from. Of equal numbers a release comes before its candidates.
    """
    found = sorted(
        (folder.parent.name for folder in site.glob("*/objects.inv")), key=_order, reverse=True
    )
    entries = [
        {
            "version": version,
            "url": f"{url.rstrip('/')}/{version}/",
            "preferred": version == found[0],
        }
        for version in found
    ]
    (site / "versions.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    items = "\n".join(
        f'<li><a href="{html.escape(version)}/index.html">{html.escape(version)}</a></li>'
        for version in found
    )
    (site / "index.html").write_text(_PAGE.format(items=items), encoding="utf-8")


def _order(version: str) -> tuple:
    numbers, rest = re.match(r"([\d.]*)(.*)", version).groups()
    return [int(number) for number in numbers.split(".") if number], not rest, rest
