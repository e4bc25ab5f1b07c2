"""The command line as it is called, in this process."""

from __future__ import annotations

import io
import sys

import pytest

from fusedlm.cli import main


@pytest.fixture
def run(monkeypatch, capsys):
    """run("chat", ..., stdin="text") -> (exit code, stdout, stderr)"""

    def call(*arguments: object, stdin: str | bytes = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fusedlm", *map(str, arguments)])
        typed = io.BytesIO(stdin.encode() if isinstance(stdin, str) else stdin)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(typed, encoding="utf-8"))
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
