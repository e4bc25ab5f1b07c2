"""fusedlm preprocess: raw text into clean text."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import ConfigFile


def _list(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def preprocess(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Files or folders of .txt, .md, .jsonl, .csv, .tsv (each also .gz) and .parquet.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="The file to write: .txt, .jsonl (also .gz) or .parquet."),
    ],
    field: Annotated[str, typer.Option(help="The column that holds the text.")] = "text",
    split: Annotated[
        str,
        typer.Option(
            help="What is a document in a text file: line, paragraph or file.",
        ),
    ] = "line",
    separator: Annotated[
        str | None,
        typer.Option(
            help="Or: documents stand between lines that hold just this, as % in fortunes.",
            show_default=False,
        ),
    ] = None,
    encoding: Annotated[str, typer.Option(help="Of the files: gb18030, cp1252, ...")] = "utf-8",
    broken: Annotated[
        str, typer.Option(help="Rows with bytes that are none of the encoding's: drop or replace.")
    ] = "drop",
    delimiter: Annotated[str, typer.Option(help="Between the columns of .csv files.")] = ",",
    folder_label: Annotated[
        bool, typer.Option("--folder-label", help="A file's folder is its label: pos/1.txt.")
    ] = False,
    max_chars: Annotated[int, typer.Option(min=1, help="Longer rows are bad ones.")] = 1_000_000,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first bad row; else they are counted.")
    ] = False,
    fix_encoding: Annotated[
        bool, typer.Option("--fix-encoding", help="Mend text that was decoded wrongly: donâ€™t.")
    ] = False,
    html: Annotated[bool, typer.Option(help="Take out HTML.")] = True,
    unicode: Annotated[str, typer.Option(help="NFC, NFKC, NFD, NFKD or none.")] = "NFC",
    spaces: Annotated[bool, typer.Option(help="One blank between words.")] = True,
    mask: Annotated[
        str,
        typer.Option(
            help="Personal data: all, or some of email,iban,card,ip,phone.", show_default="none"
        ),
    ] = "",
    min_chars: Annotated[int, typer.Option(min=1, help="Shorter texts are dropped.")] = 1,
    languages: Annotated[
        bool, typer.Option("--languages", help="Find out the language of each document.")
    ] = False,
    keep_language: Annotated[
        str, typer.Option(help="Drop documents in others than these: en,zh.", show_default="all")
    ] = "",
    duplicates: Annotated[
        str, typer.Option(help="exact or near ones are dropped; keep keeps all.")
    ] = "exact",
    similarity: Annotated[
        float, typer.Option(help="Near: documents that share so much of their word triples.")
    ] = 0.8,
    language: Annotated[
        str, typer.Option(help="Whose words and sentences: en, zh, or auto for each document.")
    ] = "auto",
    stop_words: Annotated[
        str,
        typer.Option(help="Take these out: en, zh, or a file of words.", show_default="none"),
    ] = "",
    shape: Annotated[
        str,
        typer.Option("--as", help="text; sentences, one a row; words; or tags, parts of speech."),
    ] = "text",
    lower: Annotated[bool, typer.Option("--lower", help="Small letters.")] = False,
    drop_field: Annotated[
        str, typer.Option(help="Other columns not to write: id,author.", show_default="none")
    ] = "",
    one_a_line: Annotated[
        bool | None,
        typer.Option(
            "--one-a-line/--empty-line-between",
            help="How a .txt holds documents.",
            show_default="one a line if read so",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the result is the same.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar, no summary.")] = False,
    config: ConfigFile = None,
) -> None:
    """Clean raw text, drop duplicates, mask personal data, cut it into sentences or words.

    Reads files larger than memory row by row. Other columns of the rows are kept. Beside OUT it writes
    OUT.report.json, which says what each step changed and which rows were bad, and a plot, OUT.png.

    \b
    Examples:
      fusedlm preprocess crawl/ --out clean.txt --duplicates near --mask all
      fusedlm preprocess reviews.csv --out reviews.jsonl --min-chars 50
      fusedlm preprocess poems --separator % --as words --language zh --out poems.txt
      fusedlm preprocess aclImdb/train --split file --folder-label --out imdb.jsonl
      fusedlm preprocess reviews.csv --as tags --stop-words en --out tagged.jsonl
    """
    from tqdm import tqdm

    from fusedlm.data.preprocess import ReadSettings, Settings
    from fusedlm.data.preprocess import preprocess as carry_out
    from fusedlm.data.preprocess.inputs import find_files, size_of
    from fusedlm.data.preprocess.masking import KINDS

    settings = Settings(
        ReadSettings(
            field, split, separator, encoding, broken, delimiter, folder_label, max_chars
        ),
        fix_encoding=fix_encoding, html=html, unicode=unicode, spaces=spaces,
        mask=tuple(KINDS) if mask == "all" else _list(mask), min_chars=min_chars,
        languages=languages, keep_languages=_list(keep_language), duplicates=duplicates,
        similarity=similarity, language=language, stop_words=stop_words, shape=shape, lower=lower,
        drop_fields=_list(drop_field), one_a_line=one_a_line, strict=strict, workers=workers,
    )  # fmt: skip
    started = time.monotonic()
    total = sum(map(size_of, find_files(inputs)))
    with tqdm(total=total, unit="B", unit_scale=True, disable=quiet or None) as bar:
        report = carry_out(inputs, out, settings, progress=bar.update)
    if not quiet:
        _summary(report, time.monotonic() - started, out)


def _summary(report: dict[str, Any], seconds: float, out: Path) -> None:
    from fusedlm.data.preprocess.outputs import side_file

    words = report["statistics"]["words"]
    typer.echo(
        f"read    {report['rows_read']:,} rows, {report['bytes'] / 1e6:.1f} MB, in {seconds:.1f} s:"
        f" {report['bytes'] / 1e6 / seconds:.1f} MB/s"
    )
    for kind, bad in report["bad_rows"].items():
        first = bad["examples"][0]
        where = f"{first['file']}, line {first['line']}" if first["line"] else first["file"]
        typer.echo(f"bad     {bad['count']:,} {kind} (the first: {where}: {first['what']})")
    for name, step in report["steps"].items():
        done = [f"{step[what]:,} {what}" for what in ("changed", "dropped") if step[what]]
        done += [f"{count:,} {detail}" for detail, count in step.get("details", {}).items()]
        if done:
            typer.echo(f"step    {name}: {', '.join(done)}")
    typer.echo(
        f"kept    {report['rows_kept']:,} documents, {words['total']:,} words,"
        f" {report['statistics']['distinct_words']:,} different -> {out}\n"
        f"report  {side_file(out, '.report.json')}\n"
        f"plot    {side_file(out, '.png')}"
    )
