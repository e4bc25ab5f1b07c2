"""The command line: `fusedlm quickstart`, `train`, `generate`, `chat`, `serve`, ...."""

from .app import app, main

__all__ = ["app", "main"]
