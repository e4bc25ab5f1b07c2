"""fusedlm classify predict: classes of texts, tags of words."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from ..options import ConfigFile, Precision, Threads, set_threads

_TOGETHER = 1024  # texts read, classified and written at a time, so that a file may be of any size


def predict(
    model: Annotated[Path, typer.Argument(help="A classifier's folder or its training run.")],
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts, each a word of the shell.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="A file with one text a line, or JSON lines (.jsonl); '-' is stdin.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[str, typer.Option(help="Key of the text in JSON lines.")] = "text",
    out: Annotated[
        Path | None, typer.Option(help="Write JSON lines there.", show_default="print")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines with all probabilities.")
    ] = False,
    precision: Precision = "auto",
    threads: Threads = None,
    config: ConfigFile = None,
) -> None:
    """Say which class texts are of, or which words are names of what.

    JSON lines keep what they hold and get "label" and "probabilities" (a tagger: "tags" of the words,
    which spaces separate). A line without text gets null.

    \b
    Examples:
      fusedlm classify predict runs/imdb "A film to fall asleep to." "Wonderful."
      fusedlm classify predict runs/imdb --file reviews.jsonl --out labelled.jsonl
      fusedlm classify predict runs/names "Ada Lovelace lived in London ."
    """
    from fusedlm.models.files import whole_file

    from .model import load_classifier

    if bool(texts) == (file is not None):
        raise ValueError("give texts or --file, one of the two")
    set_threads(threads)
    loaded, tokenizer = load_classifier(model, precision)
    rows = ({text: one} for one in texts or ()) if file is None else _rows(file, text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        count = 0
        with whole_file(out) as partial, open(partial, "w", encoding="utf-8") as written:
            for row in _labelled(loaded, tokenizer, rows, text):
                written.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        typer.echo(f"{out}: {count:,} texts")
        return
    for row in _labelled(loaded, tokenizer, rows, text):
        typer.echo(json.dumps(row, ensure_ascii=False) if as_json else _line(row, text))


_Row = dict[str, Any]


def _rows(file: Path, key: str) -> Iterator[_Row]:
    stdin = str(file) == "-"
    if not stdin and not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    lines = sys.stdin if stdin else open(file, encoding="utf-8-sig", errors="replace")
    try:
        for number, line in enumerate(lines, 1):
            if file.suffix.lower() not in (".jsonl", ".ndjson"):
                yield {key: line.rstrip("\n")}
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}:{number}: not JSON ({error})") from None
            if not isinstance(row, dict) or not isinstance(row.get(key), str | None):
                raise ValueError(f"{file}:{number}: expected an object with a string {key!r}")
            yield row
    finally:
        if not stdin:
            lines.close()


def _labelled(model: Any, tokenizer: Any, rows: Iterator[_Row], key: str) -> Iterator[_Row]:
    while group := list(islice(rows, _TOGETHER)):
        given = [i for i, row in enumerate(group) if (row.get(key) or "").strip()]
        found = iter(_predictions(model, tokenizer, [group[i][key] for i in given]))
        some = set(given)
        for i, row in enumerate(group):
            nothing = {"tags": None} if model.config.task == "token" else {"label": None}
            yield {**row, **(next(found) if i in some else nothing)}


def _predictions(model: Any, tokenizer: Any, texts: list[str]) -> list[_Row]:
    from fusedlm.models import classify_texts, tag_words

    labels = model.config.labels
    if model.config.task == "token":
        return [{"tags": tags} for tags in tag_words(model, tokenizer, [t.split() for t in texts])]
    results = []
    for row in classify_texts(model, tokenizer, texts).tolist():
        best = max(range(len(labels)), key=row.__getitem__)
        shares = {label: round(p, 6) for label, p in zip(labels, row, strict=True)}
        results.append({"label": labels[best], "probabilities": shares})
    return results


def _line(row: _Row, key: str) -> str:
    """For people: the class, how sure, and the text's beginning; or the words with their tags."""
    text = row.get(key) or ""
    if "tags" in row:
        words = text.split()
        tags = row["tags"] or []
        return " ".join(w if t == "O" else f"{w}/{t}" for w, t in zip(words, tags, strict=True))
    if row["label"] is None:
        return "-       (no text)"
    shown = text if len(text) <= 80 else text[:79] + "…"
    return f"{row['label']}  {row['probabilities'][row['label']]:.3f}  {shown}"
