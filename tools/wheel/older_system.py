"""Shared libraries of an older system, as far as a linker looks at them: names and versions, no code.

A program linked against a library asks for the newest version of each function that the library offers. So this
makes, of each library that is here, one that offers only the versions of a manylinux policy (PEP 600).
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6")
# Number, value, size, type, binding, visibility, section, name@version or name@@version.
_ROW = re.compile(
    r"\s*\d+: [0-9a-f]+\s+(\d+|0x[0-9a-f]+) (\w+)\s+(\w+)\s+DEFAULT\s+(\d+) (\S+?)@@?(\S+)"
)


class Symbol(NamedTuple):
    name: str
    version: str
    kind: str  # FUNC, IFUNC, OBJECT or TLS
    size: int


def allowed_versions(policy: str) -> set[str]:
    """GLIBC_2.28 and so on: what `policy` (manylinux_2_28) lets a wheel ask for on this kind of machine."""
    import auditwheel

    path = Path(auditwheel.__file__).parent / "policy" / "manylinux-policy.json"
    entry = next(p for p in json.loads(path.read_text()) if p["name"] == policy)
    versions = entry["symbol_versions"][platform.machine()]
    return {f"{family}_{number}" for family, numbers in versions.items() for number in numbers}


def symbols_of(library: Path) -> Iterator[Symbol]:
    table = subprocess.run(
        ["readelf", "--dyn-syms", "-W", library], capture_output=True, text=True, check=True
    ).stdout
    for row in table.splitlines():
        if match := _ROW.match(row):
            size, kind, _, _, name, version = match.groups()
            if kind in ("FUNC", "IFUNC", "OBJECT", "TLS"):
                yield Symbol(name, version, kind, int(size, 0))


def newest_allowed(symbols: Iterator[Symbol], allowed: set[str]) -> list[Symbol]:
    """One version of each symbol: the newest one that is allowed, the one that a linker takes on such a system."""
    best: dict[str, Symbol] = {}
    for symbol in symbols:
        if symbol.version in allowed:
            other = best.get(symbol.name)
            if other is None or _order(symbol.version) > _order(other.version):
                best[symbol.name] = symbol
    return sorted(best.values())


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def source_of(symbols: list[Symbol]) -> tuple[str, str]:
    """Assembly that defines the symbols, and a linker's script that names their versions."""
    lines: list[str] = []
    for i, symbol in enumerate(symbols):
        section = {"OBJECT": ".data", "TLS": '.section .tdata,"awT"'}.get(symbol.kind, ".text")
        kind = {"OBJECT": "object", "TLS": "tls_object"}.get(symbol.kind, "function")
        size = max(symbol.size, 1)
        lines += [
            section,
            f".globl s{i}",
            f".type s{i}, %{kind}",
            f".size s{i}, {size}",
            f"s{i}: .zero {size if kind != 'function' else 1}",
            f".symver s{i}, {symbol.name}@@{symbol.version}, remove",
        ]
    script = "".join(f"{version} {{}};\n" for version in sorted({s.version for s in symbols}))
    return "\n".join(lines) + "\n", script


def make(folder: Path, policy: str, compiler: str = "c++") -> None:
    """Writes the libraries of `policy` into `folder`, made of those that `compiler` links to."""
    allowed = allowed_versions(policy)
    folder.mkdir(parents=True, exist_ok=True)
    for name in LIBRARIES:
        found = subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        assembly, script = source_of(newest_allowed(symbols_of(Path(found)), allowed))
        (folder / f"{name}.s").write_text(assembly)
        (folder / f"{name}.map").write_text(script)
        options = [
            "-shared",
            "-nostdlib",
            f"-Wl,-soname,{name}",
            f"-Wl,--version-script,{name}.map",
        ]
        subprocess.run([compiler, *options, "-o", name, f"{name}.s"], cwd=folder, check=True)
