"""fusedlm classify predict: classes of texts, tags of words."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..options import ConfigFile, Precision, Threads, set_threads

if TYPE_CHECKING:
    from fusedlm.data.labelled import Skipped

# Not "label": where the truth stands beside the text, it is called that.
_PREDICTION, _PROBABILITIES = "prediction", "probabilities"
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

    JSON lines keep what they hold, the truth under "label" too, and get "prediction" and
    "probabilities", in place of what they have under these two names. Of a tagger "prediction" is the
    tags of the words, which spaces separate. A line that is no such JSON, or whose text is empty or has
    no tokens, gets null and is counted. `fusedlm fairness` reads these files.

    \b
    Examples:
      fusedlm classify predict runs/imdb "A film to fall asleep to." "Wonderful."
      fusedlm classify predict runs/imdb --file reviews.jsonl --out labelled.jsonl
      fusedlm classify predict runs/names "Ada Lovelace lived in London ."
    """
    from fusedlm.data.labelled import Skipped
    from fusedlm.models.files import whole_file

    from .model import load_classifier

    if bool(texts) == (file is not None):
        raise ValueError("give texts or --file, one of the two")
    if text in (_PREDICTION, _PROBABILITIES):
        raise ValueError(
            f"--text is {text!r}, which the answer would replace; expected another key"
        )
    set_threads(threads)
    loaded, tokenizer = load_classifier(model, precision)
    skipped = Skipped()
    rows = _given(texts or [], text) if file is None else _rows(file, text)
    labelled = _labelled(loaded, tokenizer, rows, text, skipped)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        count = 0
        with whole_file(out) as partial, open(partial, "w", encoding="utf-8") as written:
            for row in labelled:
                written.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        typer.echo(f"{out}: {count:,} texts")
    else:
        for row in labelled:
            typer.echo(json.dumps(row, ensure_ascii=False) if as_json else _line(row, text))
    for line in skipped.lines("without an answer"):
        typer.echo(line, err=True)


_Row = dict[str, Any]
_Placed = tuple[_Row, str, str | None]  # where it stands, and why it cannot be read if it cannot


def _given(texts: list[str], key: str) -> Iterator[_Placed]:
    for number, text in enumerate(texts, 1):
        yield {key: text}, f"text {number}", None


def _rows(file: Path, key: str) -> Iterator[_Placed]:
    from fusedlm.data.json_lines import is_unicode, parsed
    from fusedlm.data.labelled import refuse_utf16_file

    stdin = str(file) == "-"
    if not stdin and not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    if stdin:
        opened = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", errors="replace")
    else:
        opened = open(file, encoding="utf-8-sig", errors="replace")
    with opened as lines:
        refuse_utf16_file(lines, file)
        for number, line in enumerate(lines, 1):
            place = f"{file}:{number}"
            if file.suffix.lower() not in (".jsonl", ".ndjson"):
                yield {key: line.rstrip("\n")}, place, None
                continue
            try:
                row = parsed(line) if line.strip() else {}
            except ValueError:
                row = None
            if not isinstance(row, dict) or not is_unicode(line, row):
                yield {key: None}, place, "not a JSON object"
            else:
                yield row, place, None


def _labelled(
    model: Any, tokenizer: Any, rows: Iterator[_Placed], key: str, skipped: Skipped
) -> Iterator[_Row]:
    # Both names, so that no older answer stays in a row.
    names = (_PREDICTION,) if model.config.task == "token" else (_PREDICTION, _PROBABILITIES)
    unknown = dict.fromkeys(names)
    while group := list(islice(rows, _TOGETHER)):
        reasons = _reasons(model, tokenizer, [(row.get(key), why) for row, _, why in group])
        texts = [row[key] for (row, *_), why in zip(group, reasons, strict=True) if why is None]
        found = iter(_predictions(model, tokenizer, texts))
        for (row, place, _), why in zip(group, reasons, strict=True):
            if why is None:
                yield {**row, **next(found)}
                continue
            skipped.add(why, place)
            yield {**row, **unknown}


def _reasons(model: Any, tokenizer: Any, texts: list[tuple[Any, str | None]]) -> list[str | None]:
    """Why there is no answer for each text, beyond what is known; None where there is one."""
    from fusedlm.data.labelled import is_text
    from fusedlm.models.texts import tokenless

    reasons: list[str | None] = []
    for text, known in texts:
        if known is not None:
            reasons.append(known)
        elif text is None or (isinstance(text, str) and not text.strip()):
            reasons.append("no text")
        elif not isinstance(text, str):
            reasons.append("the text is no string")
        else:
            reasons.append(None if is_text(text) else "the text is not UTF-8")
    if model.config.task != "token":
        left = [i for i, why in enumerate(reasons) if why is None]
        for number in tokenless(model, tokenizer, [texts[i][0] for i in left]):
            reasons[left[number]] = "the text has no tokens"
    return reasons


def _predictions(model: Any, tokenizer: Any, texts: list[str]) -> list[_Row]:
    from fusedlm.models import classify_texts, tag_words

    labels = model.config.labels
    if model.config.task == "token":
        return [
            {_PREDICTION: tags} for tags in tag_words(model, tokenizer, [t.split() for t in texts])
        ]
    results = []
    for row in classify_texts(model, tokenizer, texts).tolist():
        best = max(range(len(labels)), key=row.__getitem__)
        shares = {label: round(p, 6) for label, p in zip(labels, row, strict=True)}
        results.append({_PREDICTION: labels[best], _PROBABILITIES: shares})
    return results


def _line(row: _Row, key: str) -> str:
    """For people: the class, how sure, and the text's beginning; or the words with their tags."""
    found = row[_PREDICTION]
    if found is None:
        return "-       (no answer)"
    text = row[key]
    if isinstance(found, list):
        tagged = zip(text.split(), found, strict=True)
        return " ".join(w if t == "O" else f"{w}/{t}" for w, t in tagged)
    shown = text if len(text) <= 80 else text[:79] + "…"
    return f"{found}  {row[_PROBABILITIES][found]:.3f}  {shown}"
