"""The second half of a walk as text: loss, gradients, the optimizer's steps, attribution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from .rounding import pick
from .tables import add_row, bar, new_table
from .text_layer import Tokens

_MOST_GROUPS = 14


def learning_parts(
    data: dict[str, Any], tokens: Tokens, moved: Tokens, layers: Sequence[int]
) -> Iterator[tuple[str, RenderableType]]:
    """(section, what it shows), of what the walk has; attribution is that to the `moved` tokens."""
    if "loss" in data:
        yield "loss", _loss(data, tokens.labels, tokens.shown)
    if "learning" in data:
        yield "gradients", _gradients(data["learning"], layers)
        yield "adam", _adam(data["learning"], layers)
    if "attribution" in data:
        yield "attribution", _attribution(data["attribution"], moved.labels, moved.shown)


def _loss(data: dict[str, Any], labels: Sequence[str], shown: Sequence[int | None]) -> Group:
    loss, rows = data["loss"], data["rows"]
    table = new_table(
        "" if data["model"]["task"] else "after",
        "comes",
        "p",
        "−log p",
        "p after the steps of below",
    )
    by_position = {row["position"]: row for row in loss["each"]}
    for t in shown if rows is None else range(len(rows)):
        if t is None:
            add_row(table, *"…" * 5)
        elif t in by_position:
            row = by_position[t]
            add_row(
                table, labels[t] if rows is None else rows[t], row["target"], f"{row['p']:.3g}",
                f"{row['loss']:.4f}", f"{row['p_after']:.3g}",
            )  # fmt: skip
    lines: list[RenderableType] = [table, Text(f"mean: {loss['mean']:.4f}", "bold")]
    if loss["guessed"]:
        lines.append(Text(loss["guessed"], "dim"))
    return Group(*lines)


def _gradients(learning: dict[str, Any], layers: Sequence[int]) -> Group:
    groups = learning["groups"]
    table = new_table("part", "weights", "their length", "gradient's length", "")
    longest = max(group["gradient"] for group in groups) or 1.0
    inside = [number for number, group in enumerate(groups) if group["layer"] in layers]
    for number in pick(len(groups), _MOST_GROUPS, inside):
        if number is None:
            add_row(table, *"…" * 4)
            continue
        group = groups[number]
        add_row(
            table, group["name"], f"{group['count']:,}", f"{group['norm']:.3g}",
            f"{group['gradient']:.3g}", bar(group["gradient"] / longest),
        )  # fmt: skip
    rows = new_table("some real ones", "shape", "row", "gradients from its beginning on")
    for parameter in _chosen(learning, layers):
        row = ",".join(map(str, parameter["row"])) or "-"
        values = " ".join(f"{x:9.2e}" for x in parameter["gradients"][:4])
        add_row(rows, parameter["name"], "×".join(map(str, parameter["shape"])), row, values)
    whole = Text(f"all together: length {learning['norms'][0]:.4g}")
    return Group(table, whole, "", rows)


def _chosen(learning: dict[str, Any], layers: Sequence[int]) -> list[dict[str, Any]]:
    """The matrices of the layers that are shown, and what lies outside of layers."""
    return [
        parameter
        for parameter in learning["parameters"]
        if parameter["layer"] is None
        or (parameter["layer"] in layers and len(parameter["shape"]) > 1)
    ]


def _adam(learning: dict[str, Any], layers: Sequence[int]) -> Group:
    s = learning["settings"]
    settings = (
        f"lr {s['lr']:g}, β₁ {s['beta1']:g}, β₂ {s['beta2']:g}, ε {s['eps']:g}, decay"
        f" {s['decay']:g} of matrices, "
        + ("no limit" if s["limit"] is None else f"limit {s['limit']:g}")
    )
    chosen = _chosen(learning, layers)
    steps = new_table("step", "loss", "gradients' length", "made shorter by")
    for number, (loss, norm, clip) in enumerate(
        zip(learning["losses"], learning["norms"], learning["clips"], strict=False), 1
    ):
        add_row(steps, str(number), f"{loss:.4f}", f"{norm:.4g}", f"× {clip:.4g}")
    add_row(steps, "after", f"{learning['losses'][-1]:.4f}", "", "")
    lines: list[RenderableType] = [Text(settings), "", steps, ""]
    if learning["losses"][1] > learning["losses"][0]:
        lines += [
            Text("The loss has risen: the steps were too long; give a smaller --lr.", "yellow")
        ]
    lines.append(_one_weight(next((p for p in chosen if p["layer"] is not None), chosen[0])))
    table = new_table("after the first step", "index", "before", "g", "m̂ / √v̂", "update", "after")
    for parameter in chosen:
        e = parameter["entry"][0]
        pace = e["m_hat"] / (e["v_hat"] ** 0.5 + s["eps"])
        add_row(
            table, parameter["name"], ",".join(map(str, parameter["index"])), f"{e['before']:.6f}",
            f"{e['gradient']:.2e}", f"{pace:.3f}", f"{e['update']:.2e}", f"{e['after']:.6f}",
        )  # fmt: skip
    lines += [
        "", table,
        Text("Of each parameter the weight with the largest gradient. In the first step m̂ is g and"
             " v̂ its square, so that every weight moves by about lr, whatever its gradient.", "dim"),
    ]  # fmt: skip
    return Group(*lines)


def _one_weight(parameter: dict[str, Any]) -> Group:
    index = ", ".join(map(str, parameter["index"]))
    table = new_table("step", "before", "g", "m", "v", "m̂", "v̂", "update", "after")
    for number, e in enumerate(parameter["entry"], 1):
        small = [f"{e[name]:.3e}" for name in ("gradient", "m", "v", "m_hat", "v_hat", "update")]
        add_row(table, str(number), f"{e['before']:.6f}", *small, f"{e['after']:.6f}")
    return Group(Text(f"one weight, {parameter['name']}[{index}], step by step:"), table)


def _attribution(
    found: dict[str, Any], labels: Sequence[str], shown: Sequence[int | None]
) -> Group:
    table = new_table("token", "nats", "")
    largest = max(abs(score) for score in found["scores"]) or 1.0
    for t in shown:
        if t is None:
            add_row(table, *"…" * 2)
            continue
        score = found["scores"][t]
        colour = "green" if score > 0 else "red"
        add_row(table, labels[t], f"{score:+.3f}", Text(bar(abs(score) / largest), colour))
    lines: list[RenderableType] = [
        Text(
            f"for {found['target']}{found['where']}, log p {found['after']:.3f} (from {found['before']:.3f})"
        ),
        table,
        Text(
            f"completeness: the scores sum to {sum(found['scores']):+.4f}, log p changes by"
            f" {found['after'] - found['before']:+.4f}; off by {found['relative_gap']:.2%} after"
            f" {found['steps']} gradients",
            "dim",
        ),
    ]
    if found["relative_gap"] > 0.05:
        lines.append(Text("That is much: give more --attribution-steps.", "yellow"))
    return Group(*lines)
