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

from .question import place_of
from .rounding import pick
from .sentence import Walk
from .tables import add_row, bar, new_table
from .text_layer import MOST_LAYERS, Stack, Tokens, tokens_vectors
from .text_learning import learning_parts


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
        layers = max(model["layers"], model["source_layers"] or 0)
        self.check(layers=layers, heads=model["heads"])
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
        labels = [token["text"] for token in self.data["tokens"]]
        self.tokens = Tokens(labels, 0 if view.position is None else view.position)
        self.stack = self._stack("", self.data["layers"], "maps", self.tokens, self.tokens)
        source = self.data.get("source")
        self.source: Stack | None = None
        if source is not None:
            read = Tokens([token["text"] for token in source["tokens"]], source["position"])
            self.source = self._stack("source-", source["layers"], "source_maps", read, read)
            layers = [layer["cross"] for layer in self.data["layers"]]
            self.cross = self._stack("cross-", layers, "cross_maps", self.tokens, read)

    def _stack(
        self, prefix: str, layers: list[dict[str, Any]], maps: str, rows: Tokens, columns: Tokens
    ) -> Stack:
        heads = self.view.heads
        return Stack(prefix, self.model, layers, self.walk.maps[maps], rows, columns, heads)

    def parts(self) -> Iterator[RenderableType]:
        yield from self._head()
        yield from self._section("tokens", self._tokens())
        yield from self._section("embedding", self._embedding())
        if self.source is not None:
            yield from self._layers(self.source, " of the source")
        yield from self._layers(self.stack, "" if self.source is None else " of the target")
        if "pooled" in self.data:
            pooled = [("vector", self.data["pooled"])]
            yield from self._section("pooled", self.stack.vectors(pooled, ""))
        yield from self._section("copying", self._copying)
        yield from self._section("logits", self._predictions())
        yield from self._section("lens", self._lens())
        moved = self.tokens if self.source is None else self.source.rows
        for name, part in learning_parts(self.data, self.tokens, moved, self.view.layers):
            yield from self._section(name, part)
        yield from self._check()

    def _layers(self, stack: Stack, of: str) -> Iterator[RenderableType]:
        last = len(stack.layers) - 1
        for number in (layer for layer in self.view.layers if layer <= last):
            yield Rule(Text(f" layer {number} of 0 to {last}{of} ", "bold"))
            parts = list(stack.parts(number))
            if stack is self.stack and self.source is not None:
                parts += self.cross.parts(number)
            for name, part in (*parts, stack.feed_forward(number)):
                yield from self._section(name, part)
        yield Rule(Text(f" all layers{of} ", "bold"))
        yield from self._section(*stack.all_layers(self.view.layers))

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
        if self.source is not None:
            yield Text.assemble(("Into ", "bold"), (self.data["target"], "bold cyan"))
        if self.data["asked"] is not None:
            yield Text.assemble(("Asked ", "bold"), (self.data["asked"], "bold cyan"))
        heads = f"{model['heads']} heads"
        both = model["source_layers"]
        layers = f"{both} + {model['layers']}" if both else str(model["layers"])
        if model["kv_heads"] != model["heads"]:
            heads += f" ({model['kv_heads']} of keys and values)"
        yield Text(
            f"{model['name']}: {model['what']} of {layers} layers, {heads}, width {model['width']},"
            f" vocabulary {model['vocab_size']:,}, {model['parameters']:,} parameters"
        )
        if model["note"]:
            yield Text(model["note"], "dim")

    def _tokens(self) -> RenderableType:
        if self.source is None:
            return _token_table("token", self.data["tokens"], self.tokens)
        return Group(
            _token_table("source", self.data["source"]["tokens"], self.source.rows), "",
            _token_table("target", self.data["tokens"], self.tokens),
        )  # fmt: skip

    def _embedding(self) -> RenderableType:
        parts = [*self._embedded(self.stack, self.data["embedding"])]
        if self.source is not None:
            parts = [*self._embedded(self.source, self.data["source"]["embedding"]), "", *parts]
        return Group(*parts)

    def _embedded(self, stack: Stack, parts: dict[str, Any]) -> Iterator[RenderableType]:
        at = stack.rows.at
        names = {"token": "token row", "position": "position row", "type": "type row",
                 "part": "row of the part", "sum": "sum", "normed": "normed"}  # fmt: skip
        once = [(names[name], rows[at]) for name, rows in parts.items()]
        if len(parts) == 2:  # token and sum are the same then
            once = once[:1]
        yield stack.vectors(once, f"of {stack.rows.labels[at]}")
        yield ""
        rows = parts.get("normed", parts["sum"])
        yield tokens_vectors(stack.rows, rows, "token", self.model["width"])

    def _copying(self) -> RenderableType:
        assert self.source is not None  # as it is of the source that something is copied
        found, read = self.data["copying"], self.source.rows
        table = new_table("after", "share", *(read.label(s) for s in read.shown))
        for t in self.tokens.shown:
            if t is None:
                add_row(table, *"…" * len(table.columns))
                continue
            shares = ["…" if s is None else f"{found['weights'][t][s]:.3f}" for s in read.shown]
            add_row(table, self.tokens.label(t), f"{found['share'][t]:.1%}", *shares)
        return table

    def _predictions(self) -> Callable[[], RenderableType]:
        def make() -> RenderableType:
            guesses, rows = self.data["predictions"], self.data["rows"]
            if rows is not None:
                parts = [_guesses(name, row) for name, row in zip(rows, guesses, strict=True)]
                return Group(*_spaced(parts), *self._answers())
            table = new_table("token" if self.model["task"] else "after", "likeliest")
            for t in self.tokens.shown:
                if t is None:
                    add_row(table, "…", "…")
                    continue
                said = [f"{g['text']} {g['p']:.1%}" for g in guesses[t]]
                add_row(table, self.tokens.label(t), "   ".join(said))
            at = self.tokens.at
            return Group(table, "", _guesses(f"at {self.tokens.labels[at]}", guesses[at]))

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
                return self._lens_at(self.tokens.at, f"at {self.tokens.labels[self.tokens.at]}")
            return Group(*_spaced([self._lens_at(row, name) for row, name in enumerate(rows)]))

        return make

    def _lens_at(self, at: int, caption: str) -> Table:
        lens = self.data["lens"]
        table = new_table("after", "p of the last one's best", "rank", "likeliest")
        count = len(lens["tokens"])
        for row in pick(count, MOST_LAYERS, [layer + 1 for layer in self.view.layers]):
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


def _token_table(title: str, rows: Sequence[dict[str, Any]], tokens: Tokens) -> Table:
    table = new_table("position", "id", title)
    for t in tokens.shown:
        if t is None:
            add_row(table, "…", "…", "…")
        else:
            add_row(table, str(t), str(rows[t]["id"]), tokens.label(t))
    return table


def _spaced(parts: Sequence[RenderableType]) -> list[RenderableType]:
    """With an empty line between each two."""
    return [line for part in parts for line in ("", part)][1:]


def _guesses(title: str, guesses: Sequence[dict[str, Any]]) -> Table:
    table = new_table(title, "logit", "probability", "")
    for guess in guesses:
        p = guess["p"]
        add_row(table, guess["text"], f"{guess['logit']:.3f}", f"{p:.1%}", bar(p))
    return table


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2), expand=False)
