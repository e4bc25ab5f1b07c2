"""From files to one clean file, a report and a picture, a few rows in memory at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fusedlm.figures import drawn
from fusedlm.models.files import write_json

from .duplicates import ExactDuplicates, NearDuplicates
from .inputs import TEXT, find_files, kind_of, read_rows, shown, size_of
from .outputs import Writer, output_kind, side_file, writing
from .plot import plot_report
from .rows import Bad, Row, Tally
from .settings import Settings, step_names
from .statistics import Statistics
from .workers import carry_out


def preprocess(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Reads files and folders, writes `out` (.txt, .jsonl, .parquet), and beside it a report in JSON and
    a picture; returns the report.

    Rows keep their order; of duplicates the first stays. Bad rows are counted in the report, with
    settings.strict the first raises ValueError with its file and line. progress(n) is told that n more
    bytes were read. Raises ValueError where no row is left; then, as after any error, `out` is left as
    it was. It takes its place last; report and picture go by its name without the suffix, which "a.txt"
    and "a.jsonl" in one folder share.
    """
    settings = settings or Settings()
    settings.check()
    out = Path(out)
    output_kind(out)
    files = find_files(inputs)
    _must_be_apart(out, inputs, files)
    run = _Run(settings)
    size = sum(map(size_of, files))
    with writing(out, settings.read.field, _one_a_line(settings, files)) as writer:
        rows = run.watch(read_rows(files, settings.read, progress))
        with contextlib.closing(carry_out(rows, settings)) as chunks:  # ends the workers, too
            for items, tallies in chunks:
                run.add(items, tallies, writer)
        run.must_have_rows()
        report = {
            "inputs": [shown(path) for path in inputs],
            "files": len(files),
            "bytes": size,
            "output": shown(out),
            "settings": {k: v for k, v in asdict(settings).items() if k != "workers"},
            **run.as_json(),
        }
        write_json(side_file(out, ".report.json"), report)
        drawn(lambda path: plot_report(report, path), side_file(out, ".png"))
    return report


def _one_a_line(settings: Settings, files: list[Path]) -> bool:
    if settings.one_a_line is not None:
        return settings.one_a_line
    lines = settings.read.split == "line" and settings.read.separator is None
    return lines and all(kind_of(file) in TEXT for file in files)


def _must_be_apart(out: Path, inputs: Sequence[str | os.PathLike[str]], files: list[Path]) -> None:
    where = out.resolve()
    for path in map(Path, inputs):
        if path.is_dir() and where.is_relative_to(path.resolve()):
            raise ValueError(
                f"{out} is inside the folder {path} that is read: the next run would read it too"
            )
    if any(file.resolve() == where for file in files):
        raise ValueError(f"{out} is one of the files that are read")


def _counted(words: list[str] | None) -> list[str] | None:
    """Those that statistics count, in small letters: no punctuation."""
    if words is None:
        return None
    return [word.lower() for word in words if word[0].isalnum() or word[-1].isalnum()]


class _Run:
    """What is counted while rows go by; the steps that look at more than one row."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._read = self._kept = 0
        self._bad: dict[str, dict[str, Any]] = {}
        self._tallies = {name: Tally() for name in step_names(settings)}
        self._statistics = Statistics()
        self._known: ExactDuplicates | NearDuplicates | None = None
        if settings.duplicates == "exact":
            self._known = ExactDuplicates()
        elif settings.duplicates == "near":
            self._known = NearDuplicates(settings.similarity)

    def watch(self, rows: Iterator[Row | Bad]) -> Iterator[Row | Bad]:
        """Counts rows as they are read."""
        for item in rows:
            self._read += isinstance(item, Row) or item.line > 0
            yield item

    def add(self, items: list[Row | Bad], tallies: dict[str, Tally], writer: Writer) -> None:
        for name, tally in tallies.items():
            self._tallies[name].add(tally)
        for item in items:
            if isinstance(item, Bad):
                self._add_bad(item)
            elif not self._is_known(item):
                self._kept += 1
                writer.write(item)
                self._statistics.add(item.text, _counted(item.words), item.language)

    def _add_bad(self, bad: Bad) -> None:
        if self._settings.strict:
            raise ValueError(str(bad))
        counted = self._bad.setdefault(bad.kind, {"count": 0, "examples": []})
        counted["count"] += 1
        if len(counted["examples"]) < Tally.EXAMPLES:
            counted["examples"].append({"file": bad.file, "line": bad.line, "what": bad.what})

    def _is_known(self, row: Row) -> bool:
        if self._known is None:
            return False
        found = self._known.check(row.signature, row.file, row.line)
        if found is None:
            return False
        tally = self._tallies["duplicates"]
        tally.dropped += 1
        tally.example(row, repeats=asdict(found))
        return True

    def must_have_rows(self) -> None:
        if self._kept:
            return
        reasons = [f"{bad['count']:,} {kind}" for kind, bad in self._bad.items()]
        reasons += [f"{t.dropped:,} {name}" for name, t in self._tallies.items() if t.dropped]
        first = next((bad["examples"][0] for bad in self._bad.values()), None)
        place = (
            f"; the first: {first['file']}, line {first['line']}: {first['what']}" if first else ""
        )
        raise ValueError(
            f"no row is left of {self._read:,}, nothing is written"
            f" ({', '.join(reasons) or 'the input holds no text'}{place})"
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "rows_read": self._read,
            "rows_kept": self._kept,
            "bad_rows": dict(sorted(self._bad.items())),
            "steps": {name: tally.as_json() for name, tally in self._tallies.items()},
            "statistics": self._statistics.as_json(),
        }
