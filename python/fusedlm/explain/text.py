"""A walk as text in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from torch import Tensor

from .question import place_of
from .rounding import pick, pick_near
from .sentence import Walk
from .tables import add_row, bar, new_table
from .text_learning import learning_parts

_SHADES = ("", "on grey15", "on grey23", "on grey30", "on grey42")
_MOST_TOKENS = 12  # rows and columns of a table; in between some are left out
_MOST_LAYERS = 14


@dataclass(frozen=True)
class View:
    """What of a walk is printed in full: these layers and heads, and the vectors of the token at
    `position`, counted from 0 (or from the end, if negative). None is the walk's own position."""

    layers: Sequence[int] = (0,)
    heads: Sequence[int] = (0,)
    position: int | None = None

    def check(self, *, layers: int, heads: int) -> None:
        """Raises ValueError naming the layer or head that a model with so many has not."""
        for name, values, count in (("layer", self.layers, layers), ("head", self.heads, heads)):
            for value in values:
                if not 0 <= value < count:
                    raise ValueError(
                        f"explain: {name} is {value}, expected 0 to {count - 1} of this model"
                    )

    def of(self, walk: Walk) -> View:
        """With the position in `walk`, from the front. Raises ValueError naming what its model has not."""
        model = walk.data["model"]
        self.check(layers=model["layers"], heads=model["heads"])
        position = walk.data["position"] if self.position is None else self.position
        return View(self.layers, self.heads, place_of(position, len(walk.data["tokens"])))


def print_walk(walk: Walk, view: View | None = None, console: Console | None = None) -> None:
    """Prints the walk; lines are as wide as the terminal, or 110 where there is none."""
    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=110)
    printer = _Printer(walk, (view or View()).of(walk))
    for part in printer.parts():
        console.print(part)


class _Printer:
    """One method a section, each giving what is to be printed."""

    def __init__(self, walk: Walk, view: View) -> None:
        self.walk, self.view, self.data = walk, view, walk.data
        self.model = self.data["model"]
        self.labels = [token["text"] for token in self.data["tokens"]]
        self.at = 0 if view.position is None else view.position  # View.of names one
        self.shown = pick_near(len(self.labels), _MOST_TOKENS, self.at)

    def parts(self) -> Iterator[RenderableType]:
        yield from self._head()
        yield from self._section("tokens", self._tokens())
        yield from self._section("embedding", self._embedding())
        for layer in self.view.layers:
            yield Rule(Text(f" layer {layer} of 0 to {self.model['layers'] - 1} ", "bold"))
            yield from self._layer(layer)
        yield Rule(Text(" all layers ", "bold"))
        yield from self._section("layers", self._layers())
        yield from self._section(
            "pooled", lambda: self._vectors([("vector", self.data["pooled"])], "")
        )
        yield from self._section("logits", self._predictions())
        yield from self._section("lens", self._lens())
        for name, part in learning_parts(self.data, self.labels, self.shown, self.view.layers):
            yield from self._section(name, part)
        yield from self._check()

    def _section(
        self, name: str, content: RenderableType | Callable[[], RenderableType]
    ) -> Iterator[RenderableType]:
        """Title, text, formula and content (made by a call, if the walk has the section)."""
        section = self.data["sections"].get(name)
        if section is None:
            return
        number = list(self.data["sections"]).index(name) + 1
        yield ""
        yield Text(f"{number}. {section['title']}", "bold")
        yield Text(section["text"], "dim")
        if section["formula"]:
            yield _indented(Text(section["formula"], "cyan"))
        yield _indented(content() if callable(content) else content)

    def _head(self) -> Iterator[RenderableType]:
        model = self.model
        yield Text.assemble(("Explaining ", "bold"), (self.data["text"], "bold cyan"))
        if self.data["asked"] is not None:
            yield Text.assemble(("Asked ", "bold"), (self.data["asked"], "bold cyan"))
        heads = f"{model['heads']} heads"
        if model["kv_heads"] != model["heads"]:
            heads += f" ({model['kv_heads']} of keys and values)"
        yield Text(
            f"{model['name']}: {model['what']} of {model['layers']} layers, {heads}, width {model['width']},"
            f" vocabulary {model['vocab_size']:,}, {model['parameters']:,} parameters"
        )
        if model["note"]:
            yield Text(model["note"], "dim")

    def _tokens(self) -> RenderableType:
        table = new_table("position", "id", "token")
        for t in self.shown:
            if t is None:
                add_row(table, "…", "…", "…")
            else:
                add_row(table, str(t), str(self.data["tokens"][t]["id"]), self._label(t))
        return table

    def _embedding(self) -> RenderableType:
        at, parts = self.at, self.data["embedding"]
        names = {"token": "token row", "position": "position row", "type": "type row",
                 "sum": "sum", "normed": "normed"}  # fmt: skip
        once = [(names[name], rows[at]) for name, rows in parts.items()]
        if len(parts) == 2:  # token and sum are the same then
            once = once[:1]
        first = self._vectors(once, f"of {self.labels[at]}")
        rows = parts.get("normed", parts["sum"])
        return Group(first, "", self._tokens_vectors(rows, "token", self.model["width"]))

    def _layer(self, number: int) -> Iterator[RenderableType]:
        layer, at, mark = self.data["layers"][number], self.at, self.labels
        of = f"of {mark[at]}"
        norm = [("before", layer["input"][at]), ("normed", layer["attention_in"][at])]
        yield from self._section("attention_norm", self._vectors(norm, of))
        yield from self._section("qkv", Group(*self._heads(layer, ("query", "key", "value"))))
        yield from self._section(
            "used", lambda: Group(*self._heads(layer, ("query_used", "key_used")))
        )
        yield from self._section("scores", self._maps(number, self.walk.scores, "{:.2f}"))
        yield from self._section("weights", self._maps(number, self.walk.weights, "{:.3f}"))
        yield from self._section("mixed", self._mixed(number))
        added = [
            ("before", layer["input"][at]), ("attention adds", layer["out"][at]),
            ("sum", layer["middle"][at]),
        ]  # fmt: skip
        yield from self._section("out", self._vectors(added, of))
        rows = [("normed", layer["ffn_in"][at]), ("up", layer["up"][at])]
        if "gate" in layer:
            rows.append(("gate", layer["gate"][at]))
        rows += [
            ("hidden", layer["hidden"][at]), ("down", layer["ffn_out"][at]),
            ("the layer's output", layer["output"][at]),
        ]  # fmt: skip
        yield from self._section("ffn", self._vectors(rows, of))

    def _heads(self, layer: dict[str, Any], names: Sequence[str]) -> Iterator[RenderableType]:
        shared = self.model["heads"] // self.model["kv_heads"]
        for head in self.view.heads:
            for name in names:
                own = head if name.startswith("query") else head // shared
                title = f"{name.split('_')[0]}, head {own}"
                yield self._tokens_vectors(layer[name][own], title, self.model["head_width"])
                yield ""

    def _maps(self, layer: int, maps: Tensor, form: str) -> RenderableType:
        tables: list[RenderableType] = []
        for head in self.view.heads:
            table = new_table(f"head {head}", *(self._label(t) for t in self.shown))
            for t in self.shown:
                if t is None:
                    add_row(table, *"…" * (len(self.shown) + 1))
                    continue
                row = maps[layer, head, t].tolist()
                seen = (self.walk.scores[layer, head, t] > float("-inf")).tolist()
                cells = [
                    Text("…") if s is None else _cell(row[s] if seen[s] else None, form)
                    for s in self.shown
                ]
                add_row(table, self._label(t), *cells)
            tables += [table, ""]
        hidden = bool(self.walk.scores[layer].isinf().any())
        return Group(*tables, *([Text("· is hidden", "dim")] if hidden else []))

    def _mixed(self, number: int) -> RenderableType:
        at, layer = self.at, self.data["layers"][number]
        rows: list[RenderableType] = []
        shared = self.model["heads"] // self.model["kv_heads"]
        for head in self.view.heads:
            weights = self.walk.weights[number, head, at].tolist()
            values = layer["value"][head // shared]
            terms = [
                f"{weights[s]:.3f} · {values[s][1]:.3f}"
                for s in self.shown
                if s is not None and weights[s] > 0
            ]
            dots = " + …" if None in self.shown else ""
            mixed = layer["mixed"][head][at]
            rows.append(self._vectors([("mixed", mixed)], f"of {self.labels[at]}, head {head}"))
            rows.append(Text(f"its first number: {' + '.join(terms)}{dots} = {mixed[1]:.3f}"))
            rows.append("")
        return Group(*rows)

    def _layers(self) -> RenderableType:
        at = self.at
        table = new_table(
            "layer", "length before", "attention adds", "ffn adds", "tokens a head looks at"
        )
        for number in pick(len(self.data["layers"]), _MOST_LAYERS, self.view.layers):
            if number is None:
                add_row(table, *"…" * 5)
                continue
            layer = self.data["layers"][number]
            spread = [f"{s:.1f}" if s is not None else "…" for s in self._some(layer["spread"])]
            lengths = [f"{layer[name][at][0]:.3g}" for name in ("input", "out", "ffn_out")]
            add_row(table, str(number), *lengths, " ".join(spread))
        table.caption = Text(f"lengths of {self.labels[at]}; means over the tokens, head by head")
        return table

    def _some(self, values: Sequence[float]) -> list[float | None]:
        return [None if i is None else values[i] for i in pick(len(values), _MOST_TOKENS)]

    def _predictions(self) -> Callable[[], RenderableType]:
        def make() -> RenderableType:
            guesses, rows = self.data["predictions"], self.data["rows"]
            if rows is not None:
                parts = [_guesses(name, row) for name, row in zip(rows, guesses, strict=True)]
                return Group(*_spaced(parts), *self._answers())
            table = new_table("token" if self.model["task"] else "after", "likeliest")
            for t in self.shown:
                if t is None:
                    add_row(table, "…", "…")
                    continue
                said = [f"{g['text']} {g['p']:.1%}" for g in guesses[t]]
                add_row(table, self._label(t), "   ".join(said))
            at = self.at
            return Group(table, "", _guesses(f"at {self.labels[at]}", guesses[at]))

        return make

    def _answers(self) -> Iterator[RenderableType]:
        if "answers" not in self.data:
            return
        table = new_table("answer", "score", "probability", "")
        for answer in self.data["answers"]:
            p = answer["p"]
            add_row(
                table, answer["text"] or "(no answer)", f"{answer['score']:.3f}", f"{p:.1%}", bar(p)
            )
        yield ""
        yield table

    def _lens(self) -> Callable[[], RenderableType]:
        def make() -> RenderableType:
            rows = self.data["rows"]
            if rows is None:
                return self._lens_at(self.at, f"at {self.labels[self.at]}")
            return Group(*_spaced([self._lens_at(row, name) for row, name in enumerate(rows)]))

        return make

    def _lens_at(self, at: int, caption: str) -> Table:
        lens = self.data["lens"]
        table = new_table("after", "p of the last one's best", "rank", "likeliest")
        count = len(lens["tokens"])
        for row in pick(count, _MOST_LAYERS, [layer + 1 for layer in self.view.layers]):
            if row is None:
                add_row(table, *"…" * 4)
                continue
            pairs = zip(lens["tokens"][row][at], lens["p"][row][at], strict=True)
            add_row(
                table, "embedding" if row == 0 else f"layer {row - 1}", f"{lens['last'][row][at]:.3f}",
                str(lens["rank"][row][at]), Text("   ".join(f"{t} {p:.1%}" for t, p in pairs)),
            )  # fmt: skip
        table.caption = Text(caption)
        return table

    def _check(self) -> Iterator[RenderableType]:
        parts = ", ".join(f"{name} {off:.1e}" for name, off in self.data["check"].items())
        yield ""
        yield Rule()
        yield Text(
            "These numbers are plain torch's. The fused kernels differ from them, as a share of the"
            f" largest, by: {parts}.",
            "dim",
        )

    def _label(self, t: int | None) -> Text:
        if t is None:
            return Text("…")
        return Text(self.labels[t], "bold" if t == self.at else "")

    def _vectors(self, rows: Sequence[tuple[str, list[float]]], title: str) -> Table:
        """Named vectors, one a line."""
        table = _vector_table(title, max(len(row) for _, row in rows) - 1)
        for name, row in rows:
            self._add_vector(table, Text(name), row, self._size_of(name))
        return table

    def _tokens_vectors(self, rows: Sequence[list[float]], title: str, size: int) -> Table:
        """One vector a token, of the tokens that are shown."""
        table = _vector_table(title, max(len(row) for row in rows) - 1)
        for t in self.shown:
            if t is None:
                add_row(table, "…")
            else:
                self._add_vector(table, self._label(t), rows[t], size)
        return table

    def _add_vector(self, table: Table, name: Text, row: list[float], size: int) -> None:
        """`row` is [length, numbers ...], the first of `size`."""
        numbers = [f"{x:.3f}" for x in row[1:]]
        more = ["…"] if size > len(numbers) else []
        add_row(table, name, f"{row[0]:.3g}", *numbers, *more)

    def _size_of(self, name: str) -> int:
        of = "ffn_width" if name in ("up", "gate", "hidden") else "width"
        size: int = self.model["head_width" if name == "mixed" else of]
        return size


def _spaced(parts: Sequence[RenderableType]) -> list[RenderableType]:
    """With an empty line between each two."""
    return [line for part in parts for line in ("", part)][1:]


def _guesses(title: str, guesses: Sequence[dict[str, Any]]) -> Table:
    table = new_table(title, "logit", "probability", "")
    for guess in guesses:
        p = guess["p"]
        add_row(table, guess["text"], f"{guess['logit']:.3f}", f"{p:.1%}", bar(p))
    return table


def _vector_table(title: str, numbers: int) -> Table:
    table = new_table(title, "length", *("" for _ in range(numbers + 1)))
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2), expand=False)


def _cell(value: float | None, form: str) -> Text:
    if value is None:
        return Text("·", "dim")
    shade = _SHADES[min(4, int(5 * value))] if 0 <= value <= 1 and form == "{:.3f}" else ""
    return Text(form.format(value), shade)
