"""The layers of a walk as text: vectors, scores, weights, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from .rounding import pick, pick_near
from .sentence import Maps
from .tables import add_row, new_table

_SHADES = ("", "on grey15", "on grey23", "on grey30", "on grey42")
MOST_TOKENS = 12  # rows and columns of a table; in between some are left out
MOST_LAYERS = 14

Part = tuple[str, Callable[[], RenderableType]]  # a section's name, and what makes what it shows


@dataclass(frozen=True)
class Tokens:
    """`labels` of tokens, of which the one `at` is looked at and those of `shown` are printed."""

    labels: list[str]
    at: int

    @property
    def shown(self) -> list[int | None]:
        return pick_near(len(self.labels), MOST_TOKENS, self.at)

    def label(self, t: int | None) -> Text:
        if t is None:
            return Text("…")
        return Text(self.labels[t], "bold" if t == self.at else "")


@dataclass(frozen=True)
class Stack:
    """Layers of one kind: the tokens `rows` look at `columns`. `prefix` begins the names of its sections."""

    prefix: str
    model: dict[str, Any]
    layers: list[dict[str, Any]]
    maps: Maps
    rows: Tokens
    columns: Tokens
    heads: Sequence[int]

    def parts(self, number: int) -> Iterator[Part]:
        """What a layer has. A model lacks some of the sections."""
        layer, at = self.layers[number], self.rows.at
        of = f"of {self.rows.labels[at]}"
        norm = [("before", layer["input"][at]), ("normed", layer["attention_in"][at])]
        added = [
            ("before", layer["input"][at]), ("attention adds", layer["out"][at]),
            ("sum", layer["middle"][at]),
        ]  # fmt: skip
        maps = self.maps
        parts: list[Part] = [
            ("attention_norm", lambda: self.vectors(norm, of)),
            ("qkv", lambda: self._heads(layer, ("query", "key", "value"))),
            ("used", lambda: self._heads(layer, ("query_used", "key_used"))),
            ("scores", lambda: self._maps(number, maps.scores, "{:.2f}")),
            ("weights", lambda: self._maps(number, maps.weights, "{:.3f}")),
            ("mixed", lambda: self._mixed(number)),
            ("out", lambda: self.vectors(added, of)),
        ]
        for name, content in parts:
            yield self.prefix + name, content

    def feed_forward(self, number: int) -> Part:
        layer, at = self.layers[number], self.rows.at
        rows = [("normed", layer["ffn_in"][at]), ("up", layer["up"][at])]
        if "gate" in layer:
            rows.append(("gate", layer["gate"][at]))
        rows += [
            ("hidden", layer["hidden"][at]), ("down", layer["ffn_out"][at]),
            ("the layer's output", layer["output"][at]),
        ]  # fmt: skip
        return f"{self.prefix}ffn", lambda: self.vectors(rows, f"of {self.rows.labels[at]}")

    def all_layers(self, wanted: Sequence[int]) -> Part:
        return f"{self.prefix}layers", lambda: self._layers(wanted)

    def _heads(self, layer: dict[str, Any], names: Sequence[str]) -> RenderableType:
        shared = self.model["heads"] // self.model["kv_heads"]
        tables: list[RenderableType] = []
        for head in self.heads:
            for name in names:
                query = name.startswith("query")
                own, tokens = (head, self.rows) if query else (head // shared, self.columns)
                title = f"{name.split('_')[0]}, head {own}"
                width = self.model["head_width"]
                tables += [tokens_vectors(tokens, layer[name][own], title, width), ""]
        return Group(*tables)

    def _maps(self, layer: int, maps: Tensor, form: str) -> RenderableType:
        tables: list[RenderableType] = []
        rows, columns = self.rows, self.columns
        for head in self.heads:
            table = new_table(f"head {head}", *(columns.label(t) for t in columns.shown))
            for t in rows.shown:
                if t is None:
                    add_row(table, *"…" * (len(columns.shown) + 1))
                    continue
                row = maps[layer, head, t].tolist()
                seen = (self.maps.scores[layer, head, t] > float("-inf")).tolist()
                cells = [
                    Text("…") if s is None else _cell(row[s] if seen[s] else None, form)
                    for s in columns.shown
                ]
                add_row(table, rows.label(t), *cells)
            tables += [table, ""]
        hidden = bool(self.maps.scores[layer].isinf().any())
        return Group(*tables, *([Text("· is hidden", "dim")] if hidden else []))

    def _mixed(self, number: int) -> RenderableType:
        at, layer = self.rows.at, self.layers[number]
        rows: list[RenderableType] = []
        shared = self.model["heads"] // self.model["kv_heads"]
        for head in self.heads:
            weights = self.maps.weights[number, head, at].tolist()
            values = layer["value"][head // shared]
            terms = [
                f"{weights[s]:.3f} · {values[s][1]:.3f}"
                for s in self.columns.shown
                if s is not None and weights[s] > 0
            ]
            dots = " + …" if None in self.columns.shown else ""
            mixed = layer["mixed"][head][at]
            of = f"of {self.rows.labels[at]}, head {head}"
            rows.append(self.vectors([("mixed", mixed)], of))
            rows.append(Text(f"its first number: {' + '.join(terms)}{dots} = {mixed[1]:.3f}"))
            rows.append("")
        return Group(*rows)

    def _layers(self, wanted: Sequence[int]) -> RenderableType:
        at, crossing = self.rows.at, "cross" in self.layers[0]
        table = new_table(
            "layer", "length before", "attention adds", *(["source adds"] if crossing else []),
            "ffn adds", "tokens a head looks at",
        )  # fmt: skip
        for number in pick(len(self.layers), MOST_LAYERS, wanted):
            if number is None:
                add_row(table, *"…" * len(table.columns))
                continue
            layer = self.layers[number]
            spread = [f"{s:.1f}" if s is not None else "…" for s in _some(layer["spread"])]
            lengths = [layer["input"][at][0], layer["out"][at][0]]
            if crossing:
                lengths.append(layer["cross"]["out"][at][0])
            lengths.append(layer["ffn_out"][at][0])
            add_row(table, str(number), *(f"{x:.3g}" for x in lengths), " ".join(spread))
        of = self.rows.labels[at]
        table.caption = Text(f"lengths of {of}; means over the tokens, head by head")
        return table

    def vectors(self, rows: Sequence[tuple[str, list[float]]], title: str) -> Table:
        """Named vectors, one a line."""
        table = _vector_table(title, max(len(row) for _, row in rows) - 1)
        for name, row in rows:
            _add_vector(table, Text(name), row, self._size_of(name))
        return table

    def _size_of(self, name: str) -> int:
        of = "ffn_width" if name in ("up", "gate", "hidden") else "width"
        size: int = self.model["head_width" if name == "mixed" else of]
        return size


def tokens_vectors(
    tokens: Tokens, rows: Sequence[list[float]], title: str, size: int
) -> RenderableType:
    """One vector a token, of the tokens that are shown, each the first numbers of `size`."""
    table = _vector_table(title, max(len(row) for row in rows) - 1)
    for t in tokens.shown:
        if t is None:
            add_row(table, "…")
        else:
            _add_vector(table, tokens.label(t), rows[t], size)
    return table


def _add_vector(table: Table, name: Text, row: list[float], size: int) -> None:
    """`row` is [length, numbers ...], the first of `size`."""
    numbers = [f"{x:.3f}" for x in row[1:]]
    more = ["…"] if size > len(numbers) else []
    add_row(table, name, f"{row[0]:.3g}", *numbers, *more)


def _vector_table(title: str, numbers: int) -> Table:
    table = new_table(title, "length", *("" for _ in range(numbers + 1)))
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _some(values: Sequence[float]) -> list[float | None]:
    return [None if i is None else values[i] for i in pick(len(values), MOST_TOKENS)]


def _cell(value: float | None, form: str) -> Text:
    if value is None:
        return Text("·", "dim")
    shade = _SHADES[min(4, int(5 * value))] if 0 <= value <= 1 and form == "{:.3f}" else ""
    return Text(form.format(value), shade)
