"""`python -m tools.fuzz TARGET --inputs N --seed S`; see `python -m tools.fuzz --help`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .case import Target, corpus_of, damaged
from .driver import Result, minimised, run, tried, warm_up
from .targets import TARGETS


def main() -> int:
    arguments = _arguments()
    names = list(TARGETS) if arguments.target == "all" else [arguments.target]
    failed = False
    for name in names:
        target = TARGETS[name]
        if arguments.replay or arguments.corpus:
            failed |= _replay(target, arguments.replay or corpus_of(name))
            continue
        result = run(target, arguments.inputs, arguments.seed, arguments.jobs, arguments.first)
        failed |= bool(result.findings)
        _say(target, result, arguments)
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--save", type=Path, help="folder for the inputs of findings, minimised")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each target")
    parser.add_argument("--corpus", action="store_true", help="read what was found before instead")
    parser.add_argument(
        "--replay", type=Path, nargs="+", help="files named CASE--what.ext to read instead"
    )
    return parser.parse_args()


def _say(target: Target, result: Result, arguments: argparse.Namespace) -> None:
    found = [
        {"case": case, "kind": kind, "where": where, "count": result.counts[case, kind, where],
         "input": index, "text": finding.text}
        for (case, kind, where), (index, finding) in sorted(result.findings.items())
    ]  # fmt: skip
    if arguments.json:
        print(
            json.dumps({"target": target.name, "inputs": result.inputs, "findings": found}),
            flush=True,
        )
        return
    speed = result.inputs / max(result.seconds, 1e-9)
    print(
        f"{target.name}: {result.inputs:,} inputs of seed {arguments.seed} in {result.seconds:.0f} s"
        f" ({speed:,.0f} a second), {len(found)} findings, memory grew by {result.grown / 2**20:.1f} MiB",
        flush=True,
    )
    for one in found:
        print(
            f"  {one['case']} {one['kind']} x {one['count']}, input {one['input']}: {one['where']}: {one['text']}"
        )
        if arguments.save:
            _save(target, one, result, arguments)


def _save(target: Target, one: dict, result: Result, arguments: argparse.Namespace) -> None:
    cases = target.cases()
    case, data = damaged(cases, target.name, arguments.seed, one["input"])
    finding = result.findings[one["case"], one["kind"], one["where"]][1]
    if finding.kind != "hang":  # each try of which would take half a minute
        data = minimised(target, case, data, finding)
    folder = arguments.save / target.name
    folder.mkdir(parents=True, exist_ok=True)
    file = (
        folder
        / f"{case.name}--{finding.kind.replace(' ', '-')}-{one['input']}{Path(case.file).suffix}"
    )
    file.write_bytes(data)
    print(f"    {file}: {data[:120]!r}")


def _replay(target: Target, files: list[Path]) -> bool:
    """Files named as in the corpus, CASE--what.ext."""
    cases = target.cases()
    if not target.threads:
        warm_up(cases)
    by_name = {case.name: case for case in cases}
    failed = False
    for file in files:
        finding = tried(target, by_name[file.name.partition("--")[0]], file.read_bytes())
        failed |= finding is not None
        print(f"{file}: {'as it should be' if finding is None else finding}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
