"""The command line: `fusedlm quickstart`, `train`, `generate`, `eval`, `info`."""

from .app import app, main

__all__ = ["app", "main"]
