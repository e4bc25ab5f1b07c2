"""Builds the documentation: `python -m tools.docs` writes build/site, `--help` says what can be chosen."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from . import versions
from .build import build


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.docs", description=__doc__)
    parser.add_argument(
        "site", nargs="?", type=Path, default=Path("build/site"), help="folder of all versions"
    )
    parser.add_argument(
        "--url",
        default="/",
        help="where that folder will be served from, for the selector of versions",
    )
    parser.add_argument(
        "--source",
        help="where files of the repository can be read; else links to them are plain text",
    )
    options = parser.parse_args()
    out = options.site / versions.current()
    if find_spec("sphinx") is None:
        print('sphinx is not installed: pip install -c constraints.txt ".[docs]"', file=sys.stderr)
        return 1
    warnings = build(out, source=options.source)
    if warnings:
        print(
            f"{warnings}\nthe documentation has warnings; {out} is not to be published",
            file=sys.stderr,
        )
        return 1
    versions.write_list(options.site, options.url)
    print(f"{out}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
