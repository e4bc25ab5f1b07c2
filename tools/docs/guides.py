"""The guides: where each stands in the navigation, and their links, which are those of the repository."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Sections of the site: pages by their name in docs/. Every page is in exactly one.
SECTIONS = {
    "Start": ["models", "generation", "explain"],
    "Use": [
        "preprocessing", "classification", "answers", "translation", "dialogue", "adapters",
        "evaluation", "serving",
    ],
    "PyTorch and Hugging Face": ["torch", "patching"],
    "Scale": ["scaling", "faults"],
    "C++": ["cpp", "engine", "model_files"],
    "Kernels": ["architecture", "cuda", "cuda_kernels", "cuda_roofline"],
    "Numbers": ["benchmarks", "benchmarks_earlier", "performance", "numerics", "determinism", "trust"],
    "Project": ["contributing", "changelog", "deprecations", "third_party"],
}  # fmt: skip

# Pages of the site that stand elsewhere in the repository.
ELSEWHERE = {
    "index": "README.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
    "third_party": "third_party/README.md",
}
_LINK = re.compile(r"(!?)\[([^\]\[]*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def pages() -> dict[str, Path]:
    """File by name. Raises ValueError for one of docs/ that is in no section, or in none that exists."""
    found = {file.stem: file for file in sorted((ROOT / "docs").glob("*.md"))}
    found |= {name: ROOT / file for name, file in ELSEWHERE.items()}
    listed = [name for names in SECTIONS.values() for name in names]
    for name, file in found.items():
        if name != "index" and listed.count(name) != 1:
            raise ValueError(
                f"{file.relative_to(ROOT)} is in {listed.count(name)} sections of tools/docs/guides.py,"
                " expected 1"
            )
    if missing := set(listed) - set(found):
        raise ValueError(
            f"tools/docs/guides.py lists {', '.join(sorted(missing))}, which docs/ lacks"
        )
    return found


def page(file: Path, source: str | None) -> str:
    """The text of a guide, with links that hold on the site.

    `source` is where the repository's files can be read; links to what is no page lead there, and
    without it become plain text.
    """
    by_path = {path.relative_to(ROOT).as_posix(): name for name, path in pages().items()}
    here = file.parent.relative_to(ROOT).as_posix()
    text = file.read_text(encoding="utf-8")

    def link(match: re.Match[str]) -> str:
        mark, label, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(here, path))
        if not (ROOT / path).exists():
            raise ValueError(f"{file.relative_to(ROOT)}: link to {target}, which does not exist")
        if path in by_path:
            if label == target:  # says where the file lies; here its title says more
                label = title(ROOT / path)
            return f"[{label}]({by_path[path]}.md{'#' + anchor if anchor else ''})"
        if mark:
            return f"![{label}]({posixpath.basename(path)})"
        return f"[{label}]({source.rstrip('/')}/{path})" if source else label

    return _outside_code(text, lambda prose: _LINK.sub(link, prose))


def title(file: Path) -> str:
    """Its first line, "# Title"."""
    with file.open(encoding="utf-8") as lines:
        return next(lines).removeprefix("#").strip()


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    pieces = _CODE.split(text)
    pieces[::2] = [change(piece) for piece in pieces[::2]]
    return "".join(pieces)


def pictures() -> list[Path]:
    return sorted((ROOT / "docs").glob("*.png"))
