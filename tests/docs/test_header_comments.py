"""What every public function of the C++ headers throws is said at the function."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.docs import header_pages
from tools.docs.guides import ROOT

HEADERS = sorted((ROOT / "csrc/include/fusedlm").glob("*.h"))
# Of these it is plain that they throw nothing.
NOT_ASKED = re.compile(r"= (?:delete|default);|^\s*~|\bnoexcept\b")


@dataclass
class Function:
    name: str  # with its class
    comment: str
    declaration: str


def functions(header: Path) -> Iterator[Function]:
    """Of all entries, those of classes too; not what is private."""
    for entry in header_pages.entries(header.read_text(encoding="utf-8")):
        comment, declaration, public = " ".join(entry.comment), "", True
        within: list[str] = []  # the classes that we are in; "" is what else has braces
        for line in map(str.strip, entry.code):
            code = line.split("//")[0].strip()
            if line.startswith("///"):
                comment += line
            elif line == "private:":
                public = False
            elif line.startswith("}"):
                within.pop()
                if not within:
                    comment, public = " ".join(entry.comment), True
            elif code and not code.endswith(":") and not code.startswith("#"):
                declaration += f" {code}"
                if code[-1] not in ";{}":
                    continue
                name = name_of(declaration)
                if name and public and "" not in within:
                    yield Function("::".join([*within, name]), comment, declaration)
                if code.endswith("{"):
                    kind = re.match(r" (?:struct|class) (\w+)", declaration)
                    within.append(kind[1] if kind else "")
                comment = "" if within else " ".join(entry.comment)
                declaration = ""


def name_of(declaration: str) -> str | None:
    """Of a function; None of anything else."""
    plain = declaration
    while (shorter := re.sub(r"<[^<>]*>", "", plain)) != plain:
        plain = shorter
    found = re.match(r"[^(={]*?(~?\w+)\(", plain)
    return found[1] if found else None


ALL = [(header, function) for header in HEADERS for function in functions(header)]


@pytest.mark.parametrize(
    ("header", "function"), [(h, f) for h, f in ALL if not NOT_ASKED.search(f.declaration)]
)
def test_a_function_says_what_it_throws(header, function):
    assert re.search(r"\bthrows\b", function.comment, re.IGNORECASE), (
        f"{header.name}: the comment of {function.name} has no word of what it throws: say 'Throws ...',"
        " 'Throws nothing.', 'Throws as every op (errors.h).', or make it noexcept"
    )


def test_ops_refer_to_the_rule_that_errors_h_states():
    rule = (ROOT / "csrc/include/fusedlm/errors.h").read_text()
    assert "Every op" in rule
    ops = [(header, f) for header, f in ALL if "Context& ctx" in f.declaration]
    assert len(ops) > 20
    for header, op in ops:
        if "Throws as the forward" in op.comment:
            forward = op.name.replace("backward", "forward")
            op = next(f for h, f in ops if h == header and f.name == forward)
        assert "Throws as every op (errors.h)" in op.comment, f"{header.name}: {op.name}"


def test_no_function_is_overlooked():
    found = {f.name for _, f in ALL}
    some = {
        "rms_norm_backward", "bandwidth_measure", "Engine::forward", "Engine::Engine", "Model::load", "generate",
        "Workspace::take", "Workspace::Scope::Scope", "TensorView::numel", "Arena::take", "version",
    }  # fmt: skip
    assert some <= found
    assert not found & {"State", "allow", "allocate", "Arena::join", "Workspace::fold"}
