"""The documentation as a site: it builds without a warning, and everything public is in its reference."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tools.docs import command_pages, guides, header_pages, python_pages, versions
from tools.docs.build import build
from tools.docs.markdown import from_comment

for package in ("sphinx", "myst_parser", "pydata_sphinx_theme"):
    pytest.importorskip(package, reason=f"{package} is not installed: the extra `docs`")

DECLARATION = re.compile(
    r"^(?:struct|class|enum class) (\w+)|^\w[\w:<>&* ]* \*?(\w+)\(", re.MULTILINE
)
MODULES = ["", *python_pages.MODULES]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, with the warnings of the build."""
    folder = tmp_path_factory.mktemp("site") / versions.current()
    return folder, build(folder)


@pytest.fixture(scope="module")
def inventory(site) -> set[str]:
    """What can be linked to: the Python objects by their full names."""
    from sphinx.util.inventory import InventoryFile

    data = (site[0] / "objects.inv").read_bytes()
    found = InventoryFile.loads(data, uri="").data
    return {name for domain, names in found.items() if domain.startswith("py:") for name in names}


def test_the_site_builds_without_a_warning(site):
    folder, warnings = site
    assert warnings == ""
    assert (folder / "index.html").is_file() and (folder / "searchindex.js").is_file()


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_of_a_module_has_an_entry(name, inventory):
    module = python_pages.load(name)
    assert module.__all__
    missing = {f"{module.__name__}.{each}" for each in module.__all__} - inventory
    assert not missing


@pytest.mark.parametrize("name", MODULES)
def test_nothing_public_is_without_a_docstring(name):
    page = python_pages.page(name)
    heads = re.findall(r"^:+\{py:\w+\} (.*)\n(?::\w+:.*\n)?\n+(?=:{3,})", page, re.MULTILINE)
    assert not heads


def test_every_command_and_every_option_is_in_the_reference(site):
    def check(command: Any, page: str) -> None:
        for parameter in command.params:
            for option in parameter.opts:
                assert not option.startswith("-") or option in page, option
        for below in command_pages.below(command).values():
            check(below, page)

    program = command_pages.below(command_pages.program())
    assert len(program) > 15
    for name, command in program.items():
        page = (site[0] / f"commands/{name}.html").read_text()
        check(command, page)


def test_every_function_and_class_of_the_headers_is_in_the_reference(site):
    headers = header_pages.headers()
    assert len(headers) > 20
    for header in headers:
        page = re.sub(r"<[^>]+>", "", (site[0] / f"headers/{header.stem}.html").read_text())
        declared = DECLARATION.findall(header.read_text())
        for names in declared:
            assert "".join(names) in page, header


CLASS = """\
/// A thing.
class A {
 public:
  int b;

 private:
  struct S {
    int d;
  };
  int c;
};
"""
DECLARATIONS = """\
namespace fusedlm {

/// One.
int one();
/// Two.
int two(int a,
        int b);

int three();

}  // namespace fusedlm
"""


def test_private_parts_of_a_class_are_left_out():
    (entry,) = header_pages.entries(CLASS)
    assert entry.names == ["A"]
    assert "int b;\n};" in entry.markdown() and "int c" not in entry.markdown()


def test_declarations_are_told_apart_by_their_comments():
    found = header_pages.entries(DECLARATIONS)
    assert [entry.names for entry in found] == [["one"], ["two"], ["three"]]
    assert [entry.comment for entry in found] == [["One."], ["Two."], []]


def test_comments_keep_their_columns_and_say_nothing_in_markdown_by_accident():
    made = from_comment("y = a * b * c of <x>:\n  x     [N]\n  bias  [N, C]\nSee `a * b`.")
    assert made.splitlines() == [
        r"y = a \* b \* c of \<x>:", "", "```text", "x     [N]", "bias  [N, C]", "```", "", "See `a * b`.",
    ]  # fmt: skip


def test_the_site_says_its_version_and_lists_all_that_are_there(site, tmp_path):
    folder, _ = site
    assert versions.current() in (folder / "index.html").read_text()
    for version in ("0.9.0", "0.10.0", "0.10.0rc1"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "objects.inv").touch()
    versions.write_list(tmp_path, "https://example.org/docs/")
    entries = json.loads((tmp_path / "versions.json").read_text())
    assert [entry["version"] for entry in entries] == ["0.10.0", "0.10.0rc1", "0.9.0"]
    assert entries[0]["url"] == "https://example.org/docs/0.10.0/"
    assert [entry["preferred"] for entry in entries] == [True, False, False]
    page = (tmp_path / "index.html").read_text()
    assert page.index("0.10.0/index.html") < page.index("0.9.0/index.html")


def test_a_link_to_what_does_not_exist_is_an_error(monkeypatch):
    page = guides.ROOT / "docs/torch.md"
    monkeypatch.setattr(type(page), "read_text", lambda *_, **__: "[gone](../examples/gone.md)")
    with pytest.raises(
        ValueError, match=r"docs/torch.md: link to ../examples/gone.md, which does not"
    ):
        guides.page(page, None)


def test_links_leave_the_site_only_where_the_source_can_be_read():
    text = guides.page(guides.ROOT / "README.md", None)
    assert "](cpp.md)" in text and "](docs/" not in text and "](examples" not in text
    text = guides.page(guides.ROOT / "README.md", "https://example.org/blob/main")
    assert "](https://example.org/blob/main/examples/cpp)" in text
