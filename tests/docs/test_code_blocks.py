"""The examples of the documentation: Python runs, and what begins with `fusedlm` is a command that exists.

The blocks of a page run in order, in one namespace and an empty folder, in which small models with random
weights stand under the names of those the pages load. A block that cannot run here says why in a comment
above it, `<!-- not run: needs two ranks -->`, and shows up as skipped.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from fusedlm.cli.app import app
from tests.support.pages import PAGES, ROOT, Block, blocks, commands, inline_commands, other_lines
from tests.support.stand_ins import write_corpus, write_models, write_reviews

OPTIONAL = {"gguf", "llguidance", "rjieba", "transformers"}
PYTHON = {page: [b for b in blocks(page) if b.language == "python"] for page in PAGES}
RUN = [page for page, found in PYTHON.items() if any(not b.not_run for b in found)]
NOT_RUN = [block for page in PAGES for block in blocks(page) if block.not_run]
# Of other programs: what fetches packages and their data, and builds, which tests/cpp does.
OTHERS = ("pip install ", "apt-get ", "ln -s ", "cp ", "cmake ", "c++ ", "PKG_CONFIG_PATH=")
OURS = re.compile(r"python -m ((?:benchmarks|tools)\.[\w.]+)|(tools/\w+\.py)")


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory) -> Path:
    """What the pages load, smaller."""
    pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("stand-ins")
    for write in (write_models, write_reviews, write_corpus):
        write(folder)
    return folder


@pytest.mark.parametrize("page", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in RUN])
def test_the_python_of_a_page_runs(page, stand_ins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(stand_ins / "packages")
    for file in stand_ins.iterdir():
        (tmp_path / file.name).symlink_to(file)
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "page"}
    for block in PYTHON[page]:
        if block.not_run:
            continue
        # Line numbers in a traceback are those of the page.
        code = compile("\n" * block.line + block.code, str(page), "exec")
        try:
            exec(code, names)
        except ImportError as error:
            if error.name and error.name.split(".")[0] in OPTIONAL:
                pytest.skip(f"{block.place}: {error.name} is not installed")
            raise


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(
            block, id=block.place, marks=pytest.mark.skip(reason=f"not run: {block.not_run}")
        )
        for block in NOT_RUN
    ],
)
def test_block_that_does_not_run_here(block): ...


def is_known(line: str) -> bool:
    """Whether a line that is no command of fusedlm's is one of OTHERS, or runs what the repository has."""
    if found := OURS.match(line):
        file = found[2] or found[1].replace(".", "/") + ".py"
        return (ROOT / file).is_file() or (ROOT / file.removesuffix(".py")).is_dir()
    return line.startswith(OTHERS)


def test_a_block_without_a_language_holds_commands_that_are_known_or_says_why_it_is_not_run():
    unknown = [
        f"{block.place}: {line}"
        for page in PAGES
        for block in blocks(page)
        if not block.not_run
        for line in other_lines(block)
        if not is_known(line)
    ]
    expected = "expected a language, or <!-- not run: why --> in the line above"
    assert not unknown, f"{expected}: {unknown}"


def command_of(words: list[str]) -> tuple[Any, str, list[str]]:
    """The command that words call, its name, and the words behind it."""
    command, name = typer.main.get_command(app), "fusedlm"
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        assert words[0] in command.commands, f"`{name}` has no command {words[0]!r}"
        name = f"{name} {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, name, words


def options_of(command: Any) -> set[str]:
    params = command.get_params(typer.Context(command))
    return {option for param in params for option in (*param.opts, *param.secondary_opts)}


SHELL = [(b, words) for page in PAGES for b in blocks(page) for words in commands(b)]


@pytest.mark.parametrize(
    ("block", "words"), [pytest.param(*each, id=f"{each[0].place}-{each[1][0]}") for each in SHELL]
)
def test_a_command_of_the_pages_parses(block: Block, words: list[str]):
    command, name, arguments = command_of(words)
    if hasattr(command, "commands"):  # fusedlm itself: its options print something and end
        assert set(arguments) <= options_of(command), f"{block.place}: {arguments}"
    else:
        command.make_context(name, arguments)


@pytest.mark.parametrize("page", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in PAGES])
def test_the_commands_and_options_in_the_sentences_exist(page):
    for words in inline_commands(page):
        command, name, arguments = command_of(words)
        given = {word.split("=")[0] for word in arguments if word.startswith("--")}
        unknown = given - options_of(command)
        assert not unknown, f"{page.name}: `{name}` has no {', '.join(sorted(unknown))}"


def test_json_in_the_pages_is_valid():
    for block in (b for page in PAGES for b in blocks(page) if b.language == "json"):
        lines = block.code.splitlines()
        for text in lines if all(line.startswith("{") for line in lines) else [block.code]:
            json.loads(text)
