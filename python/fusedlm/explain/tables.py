"""Tables of a terminal; what a cell says is never taken for markup, whatever a token looks like."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text


def new_table(*columns: str | Text) -> Table:
    table = Table(box=None, pad_edge=False, header_style="italic", caption_justify="left")
    for column in columns:
        table.add_column(Text(column, no_wrap=True) if isinstance(column, str) else column)
    return table


def add_row(table: Table, *cells: str | Text) -> None:
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def bar(share: float, width: int = 24) -> str:
    return "█" * round(share * width)
