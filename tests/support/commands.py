"""Programs that tests run."""

from __future__ import annotations

import subprocess


def run(*command: object, **options) -> subprocess.CompletedProcess:
    """Runs a program; stdout holds stderr too."""
    return subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False, **options,
    )  # fmt: skip


def must(*command: object, **options) -> str:
    """What a program prints; fails with the end of it where the program does."""
    done = run(*command, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-8000:]}"
    return done.stdout
