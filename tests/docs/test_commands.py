"""The commands of the documentation run, page by page and in order, on small stand-ins for what they name.

Options behind those of the page make training short; a model that a page takes from another page is there
already. What cannot run here is named with the reason.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import run  # noqa: F401  the fixture
from tests.support import stand_ins
from tests.support.pages import PAGES, ROOT, blocks, commands

# command -> options that make it short. `--from` brings a model of its own shape.
SHAPE = "--layers 1 --width 32 --heads 2"
SHORT = {
    "quickstart": "--steps 2",
    "train": f"{SHAPE} --context 64 --batch 2 --steps 2 --warmup 1 --eval-batches 1 --vocab-size 300",
    "train --from": "--context 32 --batch 1 --steps 2 --warmup 1 --eval-batches 1",
    "train --resume": "--steps 3",
    "classify train": f"{SHAPE} --ffn-width 32 --context 16 --epochs 1",
    "classify train --from": "--context 16 --epochs 1",
    "translate train": f"{SHAPE} --decoder-layers 1 --context 32 --batch-tokens 256 --steps 2 --warmup 1"
    " --vocab-size 300",
    "tune": "--context 64 --batch 2 --epochs 0.2 --max-new-tokens 2 --samples 1",
    "tune --resume": "",
    "answer train": "--epochs 1 --longest 16",
    "generate": "--max-new-tokens 4",
    "chat": "--max-new-tokens 4",
}
NOT_HERE = {
    "serve": "does not end by itself; tests/serve runs it",
    "--include-dir": "tests/cpp asks an installed wheel",
    "--cmake-dir": "tests/cpp asks an installed wheel",
}
# Packages of Debian, here under the name of their folder.
ELSEWHERE = "/usr/share/games/fortunes/"
# Runs that a page takes from the one before it, by the command that makes them.
BEFORE = {
    "docs/evaluation.md": ["train my_text.txt --out runs/mine"],
    "docs/explain.md": [
        "train my_text.txt --out runs/mine",
        "classify train films.csv --out runs/reviews",
        "answer train squad.json --from minilm --out runs/answers",
        "translate train text.en text.de --out runs/en-zh",
    ],
    "docs/generation.md": ["train my_text.txt --out runs/mine"],
}


def shortened(words: list[str]) -> list[str]:
    known = [n for n in range(2, 0, -1) if " ".join(words[:n]) in SHORT]
    if not known:
        return words
    name = " ".join(words[: known[0]])
    for option in ("--resume", "--from"):
        if option in words and f"{name} {option}" in SHORT:
            name = f"{name} {option}"
    return [*words, *SHORT[name].split()]


def runnable(page: Path) -> list[list[str]]:
    found = []
    for block in blocks(page):
        if block.not_run or block.code.startswith("torchrun"):
            continue  # nor what goes on with its runs; tests/distributed starts several processes
        for line in commands(block):
            words = [word.replace(ELSEWHERE, "") for word in line]
            if words[0] not in NOT_HERE:
                found.append(words)
    return found


RUN = {str(page.relative_to(ROOT)): found for page in PAGES if (found := runnable(page))}


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("given")
    for write in (
        stand_ins.write_models, stand_ins.write_texts, stand_ins.write_reviews,
        stand_ins.write_pairs, stand_ins.write_talk,
    ):  # fmt: skip
        write(folder)
    return folder


@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run(page, given, run, tmp_path, monkeypatch):  # noqa: F811
    if page == "docs/preprocessing.md":
        for package in ("rjieba", "HanTa"):
            pytest.importorskip(package)
        assert sum(words[0] == "preprocess" for words in RUN[page]) == 10
    shutil.copytree(given, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    before = [line.split() for line in BEFORE.get(page, [])]
    for words in [*before, *RUN[page]]:
        if "--resume" not in words:  # a page may show a run twice
            out = words[words.index("--out") + 1] if "--out" in words else f"runs/{words[0]}"
            if words[0] not in ("classify", "translate", "answer") or words[1] == "train":
                shutil.rmtree(out, ignore_errors=True)
        code, _, err = run(*shortened(words), stdin="Hi\n")
        assert code == 0, f"fusedlm {' '.join(words)}\n{err}"
