"""The extension's stub against the extension."""

import ast
from pathlib import Path

import fusedlm
from fusedlm import _core


def test_every_name_of_the_stub_is_in_the_extension():
    stub = ast.parse((Path(fusedlm.__file__).parent / "_core.pyi").read_text())
    functions = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    values = {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}
    assert functions - {"__getattr__"}
    assert (functions - {"__getattr__"}) | values <= set(dir(_core))
