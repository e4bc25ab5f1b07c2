"""Puts guides and references together as the source of a Sphinx project, and builds it."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from . import command_pages, guides, header_pages, python_pages, versions

# Comments in headers are 110 columns wide.
_WIDE = """
.bd-main .bd-content .bd-article-container { max-width: 60rem; }
.bd-article pre { font-size: 0.8rem; }
"""


def build(out: Path, *, source: str | None = None) -> str:
    """Writes the site of this version to `out`; returns the warnings, none if all is well."""
    # Imported here: the pages can be made without them.
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    warnings = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="fusedlm-docs-") as scratch:
        pages, state = Path(scratch, "pages"), Path(scratch, "state")
        write_pages(pages, source)
        shutil.rmtree(out, ignore_errors=True)
        with patch_docutils(), docutils_namespace():
            app = Sphinx(
                pages, None, out, state, "html", confoverrides=settings(), status=None,
                warning=warnings, freshenv=True, warningiserror=True,
            )  # fmt: skip
            app.build(force_all=True)
    return warnings.getvalue().strip()


def settings() -> dict[str, object]:
    """Sphinx's configuration."""
    version = versions.current()
    return {
        "project": "fusedlm",
        "version": version,
        "release": version,
        "extensions": ["myst_parser"],
        "myst_enable_extensions": ["colon_fence"],
        "myst_heading_anchors": 3,
        "highlight_language": "none",
        "smartquotes": False,  # they make a dash of the two in front of an option
        "python_maximum_signature_line_length": 88,
        "add_module_names": False,
        "toc_object_entries_show_parents": "hide",
        "html_theme": "pydata_sphinx_theme",
        "html_title": f"fusedlm {version}",
        "html_static_path": ["_static"],
        "html_css_files": ["wide.css"],
        "html_copy_source": False,
        "html_show_sourcelink": False,
        "html_show_copyright": False,
        "html_theme_options": {
            "switcher": {"json_url": "../versions.json", "version_match": version},
            "check_switcher": False,  # the list is written when all versions are there
            "navbar_end": ["version-switcher", "theme-switcher"],
            "show_toc_level": 2,
        },
    }


def write_pages(folder: Path, source: str | None) -> None:
    """All pages as Markdown."""
    (folder / "_static").mkdir(parents=True)
    (folder / "_static/wide.css").write_text(_WIDE, encoding="utf-8")
    for name, file in guides.pages().items():
        text = guides.page(file, source)
        if name == "index":
            text += _contents([*map(_section, guides.SECTIONS), "reference"], hidden=True)
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    for file in guides.pictures():
        shutil.copy(file, folder)
    for section, names in guides.SECTIONS.items():
        _write(folder / f"{_section(section)}.md", f"# {section}\n", names)
    _write_reference(folder)


def _write_reference(folder: Path) -> None:
    modules = {"fusedlm": ""} | {f"fusedlm.{name}": name for name in python_pages.MODULES}
    _chapter(
        folder / "python",
        "# Python\n",
        {full: python_pages.page(name) for full, name in modules.items()},
    )
    commands = command_pages.below(command_pages.program())
    _chapter(
        folder / "commands", command_pages.program_page(),
        {name: command_pages.page(name, command) for name, command in commands.items()},
    )  # fmt: skip
    headers = {header.stem: header_pages.page(header) for header in header_pages.headers()}
    _chapter(folder / "headers", "# C++ headers\n", headers)
    _write(folder / "reference.md", "# Reference\n", ["python", "commands", "headers"])


def _chapter(folder: Path, opening: str, pages: dict[str, str]) -> None:
    """Pages in a folder, and beside it the page that lists them."""
    folder.mkdir()
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    _write(folder.with_suffix(".md"), opening, [f"{folder.name}/{name}" for name in pages])


def _section(title: str) -> str:
    return "section_" + "".join(c if c.isalnum() else "_" for c in title.lower())


def _write(file: Path, text: str, below: Iterable[str]) -> None:
    file.write_text(text + _contents(below), encoding="utf-8")


def _contents(below: Iterable[str], *, hidden: bool = False) -> str:
    options = ":hidden:\n" if hidden else ":maxdepth: 1\n"
    return "\n```{toctree}\n" + options + "\n" + "\n".join(below) + "\n```\n"
