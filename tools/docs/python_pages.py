"""The reference of the Python package, from its docstrings: one page a module.

Modules are imported, since most load their names on first use. Docstrings are put into the Python
domain of Sphinx as Markdown; annotations stay as the source has them.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from typing import Any

from .markdown import fenced, from_comment

# What is public: of each module the names in its __all__.
MODULES = (
    "ops",
    "functional",
    "nn",
    "models",
    "generate",
    "train",
    "data",
    "data.preprocess",
    "evaluation",
    "explain",
    "integrations",
    "optim",
    "numpy",
    "cpp",
    "errors",
)


def load(name: str) -> Any:
    return importlib.import_module(f"fusedlm.{name}" if name else "fusedlm")


def page(name: str) -> str:
    """The page of `fusedlm.<name>`; of fusedlm itself for an empty name."""
    module = load(name)
    parts = [f"# {module.__name__}\n", from_comment(module.__doc__)]
    parts.append(f"```{{py:module}} {module.__name__}\n```\n")
    parts.extend(_entry(module, each) for each in module.__all__)
    return "\n".join(parts)


def _entry(module: Any, name: str) -> str:
    value = getattr(module, name)
    if inspect.isclass(value):
        return _class(name, value)
    if callable(value):
        return _directive("function", name + signature(value), from_comment(value.__doc__))
    return _directive("data", name, fenced(repr(value), "python"))


def signature(function: Any) -> str:
    """As the source has it, "(x: Tensor, eps: float = 1e-05) -> Tensor", with types that lead to their entries."""
    from sphinx.util.inspect import stringify_signature

    is_class = inspect.isclass(function)
    home = function.__init__ if is_class else inspect.unwrap(function)
    found = inspect.signature(function)
    found = found.replace(
        parameters=[
            each.replace(annotation=annotation(each.annotation, home))
            for each in found.parameters.values()
        ],
        return_annotation=found.empty if is_class else annotation(found.return_annotation, home),
    )
    return stringify_signature(found, unqualified_typehints=True).replace("\\", "\\\\")


def annotation(text: Any, home: Any) -> Any:
    """An annotation of the function `home`, with our types by their full names ("~" has Sphinx shorten them).

    Short ones could mean several: `Question` is a class of fusedlm.data, and another of fusedlm.explain.
    """
    if not isinstance(text, str):
        return text
    scope = {**_for_type_checkers(home.__module__), **getattr(home, "__globals__", {})}
    return re.sub(r"(?<![\w.])\w+", lambda name: _full_name(scope.get(name[0]), name[0]), text)


def _full_name(value: Any, name: str) -> str:
    if isinstance(value, (types.GenericAlias, types.UnionType)):  # an alias: written out
        return re.sub(r"(?:\w+\.)+\w+", lambda path: _linked(path[0]), str(value))
    return _linked(f"{value.__module__}.{value.__qualname__}") if _is_ours(value) else name


def _is_ours(value: Any) -> bool:
    return inspect.isclass(value) and value.__module__.startswith("fusedlm.")


def _linked(path: str) -> str:
    if not path.startswith("fusedlm."):
        return path.rpartition(".")[2]
    return "~" + _public().get(path, path)


@cache
def _public() -> dict[str, str]:
    """Where a class is public, by where it is defined."""
    found: dict[str, str] = {}
    for module in map(load, MODULES):
        for name in module.__all__:
            if _is_ours(value := getattr(module, name)):
                found.setdefault(
                    f"{value.__module__}.{value.__qualname__}", f"{module.__name__}.{name}"
                )
    return found


@cache
def _for_type_checkers(name: str) -> dict[str, Any]:
    """What a module imports under `if TYPE_CHECKING:`."""
    module = importlib.import_module(name)
    found: dict[str, Any] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                if isinstance(line, ast.ImportFrom):
                    path = "." * line.level + (line.module or "")
                    origin = importlib.import_module(resolve_name(path, module.__package__))
                    found |= {each.name: getattr(origin, each.name, None) for each in line.names}
    return found


def _class(name: str, kind: type) -> str:
    about = "" if (kind.__doc__ or "").startswith(f"{name}(") else kind.__doc__  # of a dataclass
    parts = [from_comment(about), *_fields(kind), *_members(kind)]
    return _directive("class", name + signature(kind), "\n".join(parts), colons=4)


def _fields(kind: type) -> Iterator[str]:
    """Fields of a dataclass that have a comment behind them."""
    if not dataclasses.is_dataclass(kind):
        return
    lines = textwrap.dedent(inspect.getsource(kind)).splitlines()
    (tree,) = ast.parse("\n".join(lines)).body
    assert isinstance(tree, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            behind = lines[(node.end_lineno or 0) - 1][node.end_col_offset or 0 :]
            if match := re.match(r"\s*# (?!type:|noqa|fmt:)(.*)", behind):
                yield _directive("attribute", node.target.id, from_comment(match[1]))


def _members(kind: type) -> Iterator[str]:
    """Public methods and properties of the class itself, in the order of the source."""
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            made = annotation(member.fget.__annotations__.get("return", ""), member.fget)
            option = f":type: {made}" if made else ""
            yield _directive("property", name, comment(kind, name), option)
        elif isinstance(member, (staticmethod, classmethod)) or inspect.isfunction(member):
            option = {staticmethod: ":staticmethod:", classmethod: ":classmethod:"}.get(
                type(member), ""
            )
            arguments = signature(getattr(kind, name))
            if inspect.isfunction(member):
                arguments = re.sub(r"^\(self(, )?(/, )?", "(", arguments)
            yield _directive("method", name + arguments, comment(kind, name), option)


def comment(kind: type, name: str) -> str:
    """What the method says, or that of a base class of ours; torch's are written for its own site."""
    for base in kind.__mro__:
        member = vars(base).get(name)
        if member is not None and member.__doc__ and base.__module__.startswith("fusedlm."):
            return from_comment(member.__doc__)
    return ""


def _directive(kind: str, argument: str, body: str, option: str = "", colons: int = 3) -> str:
    fence = ":" * colons
    lines = [f"{fence}{{py:{kind}}} {argument}", *([option] if option else []), "", body, fence, ""]
    return "\n".join(lines)
