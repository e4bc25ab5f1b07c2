"""A translation model and a translation memory, measured on the same pairs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusedlm.data import TranslationMemory
    from fusedlm.data.parallel import Parallel

Pair = tuple[str, str]
SENTENCE = 4  # words of a source from which on it is counted as a sentence
_TITLES = {"bleu": "BLEU", "chrf": "chrF"}
_HAN = ("一", "鿿")


@dataclass(frozen=True)
class Results:
    """Scores by part ("all", "sentences") and by who translated ("model", "memory"), and all texts.

    `differences` are by part how much better the model is than the memory, and how sure that is.
    `left_out` says what was not measured, `untranslated` which sources the model cannot read: their
    translations count as empty.
    """

    scores: dict[str, dict[str, dict[str, float]]]
    rows: list[dict[str, Any]]
    differences: dict[str, dict[str, dict[str, float]]]
    left_out: list[str]
    untranslated: list[str]

    def table(self) -> str:
        lines = [f"{'':22}{'BLEU':>7}{'chrF':>7}{'exact':>8}{'placeholders':>15}"]
        for part, by in self.scores.items():
            for name, s in by.items():
                label = f"{part} ({s['pairs']}), {name}"
                kept = f"{s['placeholders_kept']} of {s['placeholders']}"
                lines.append(
                    f"{label:22}{s['bleu']:7.1f}{s['chrf']:7.1f}{s['exact']:8.1%}{kept:>15}"
                )
        for part, metrics in self.differences.items():
            lines.append(f"{part}, model against memory (95 % by paired bootstrap)")
            for name, d in metrics.items():
                lines.append(
                    f"  {_TITLES[name]:5}{d['difference']:+6.1f}  ({d['low']:+.1f} to {d['high']:+.1f}),"
                    f" better in {d['wins']:.1%} of draws"
                )
        return "\n".join(lines)

    def examples(self, count: int) -> Iterator[str]:
        """Rows spread evenly over the data."""
        step = max(1, len(self.rows) // max(1, count))
        for row in self.rows[::step][:count]:
            yield ""
            for name in ("source", "reference", "model", "memory"):
                if name in row:
                    yield f"{name:10}{row[name]}"

    def write(self, folder: Path) -> None:
        from fusedlm.figures import drawn
        from fusedlm.models.files import write_json, write_text

        folder.mkdir(parents=True, exist_ok=True)
        notes: dict[str, Any] = {"model_minus_memory": self.differences}
        notes |= {"left_out": self.left_out, "untranslated": self.untranslated}
        write_json(folder / "scores.json", {**self.scores, **notes})
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows]
        write_text(folder / "translations.jsonl", "".join(lines))
        if any("similarity" in row for row in self.rows):
            drawn(lambda path: _plot(self.rows, path), folder / "scores.png")


def measure(
    model: Any, tokenizer: Any, data: Parallel, memory: TranslationMemory | None, *, beam: int,
    length_penalty: float, consensus: bool, tokenize: str, progress: bool,
) -> Results:  # fmt: skip
    from tqdm import tqdm

    from fusedlm.data.labelled import Skipped
    from fusedlm.generate import translate
    from fusedlm.train.translation_scores import bleu

    pairs = data.pairs
    if tokenize == "auto":
        tokenize = _tokenizer_for([reference for _, reference in pairs])
    bleu(["a"], ["a"], tokenize=tokenize)  # what is missing for it is said before the work
    sources = [source for source, _ in pairs]
    with tqdm(total=len(pairs), desc="translating", unit="text", disable=not progress) as bar:
        made = translate(
            model, tokenizer, sources, memory=memory, beam=beam, length_penalty=length_penalty,
            consensus=consensus, progress=bar.update,
        )  # fmt: skip
    too_long = Skipped()
    for number, new in enumerate(made):
        if new is None:
            reason = f"more than {model.config.context - 1} tokens"
            too_long.add(reason, data.place(number))
    rows: list[dict[str, Any]] = [
        {"source": source, "reference": reference, "model": new or ""}
        for (source, reference), new in zip(pairs, made, strict=True)
    ]
    if memory is not None:
        for row in tqdm(rows, desc="looking up", unit="text", disable=not progress):
            found = memory.look_up(row["source"])
            target, score = (found[0].target, found[0].score) if found else ("", 0.0)
            row |= {"memory": target, "similarity": round(score, 4)}
    parts = {"all": rows, "sentences": [r for r in rows if len(r["source"].split()) >= SENTENCE]}
    scores = {name: _scores(part, tokenize) for name, part in parts.items() if part}
    compared = {} if memory is None else {
        name: _differences(part, tokenize) for name, part in parts.items() if part
    }  # fmt: skip
    untranslated = too_long.lines("count as untranslated")
    return Results(scores, rows, compared, data.skipped.lines(), untranslated)


def _scores(rows: list[dict[str, Any]], tokenize: str) -> dict[str, dict[str, float]]:
    from fusedlm.train.translation_scores import scores

    sources, references = ([row[name] for row in rows] for name in ("source", "reference"))
    return {
        name: {
            "pairs": len(rows),
            **scores(sources, [row[name] for row in rows], references, tokenize=tokenize),
        }
        for name in ("model", "memory")
        if name in rows[0]
    }


def _differences(rows: list[dict[str, Any]], tokenize: str) -> dict[str, dict[str, float]]:
    from fusedlm.train.translation_scores import differences

    model, memory, references = ([row[k] for row in rows] for k in ("model", "memory", "reference"))
    return differences(model, memory, references, tokenize=tokenize)


def _tokenizer_for(references: Sequence[str]) -> str:
    """sacreBLEU's for Chinese, where a third of the letters are."""
    letters = [c for text in references for c in text if c.isalpha()]
    han = sum(_HAN[0] <= c <= _HAN[1] for c in letters)
    return "zh" if 3 * han > len(letters) else "13a"


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    """chrF of both by how similar the nearest known source is."""
    from fusedlm.figures import new_figure, save_figure
    from fusedlm.train.translation_scores import chrf

    edges = [0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 1.01]
    labels: list[str] = []
    bars: dict[str, list[float]] = {"model": [], "memory": []}
    for low, high in itertools.pairwise(edges):
        part = [row for row in rows if low <= row["similarity"] < high]
        if part:
            labels.append(f"{low:.1f} to {min(high, 1):.1f}\n{len(part)} texts")
            for name, values in bars.items():
                texts = [row[name] for row in part], [row["reference"] for row in part]
                values.append(chrf(*texts))
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    for shift, (name, values) in zip((-0.2, 0.2), bars.items(), strict=True):
        axes.bar([i + shift for i in range(len(values))], values, width=0.4, label=name)
    axes.set_xticks(range(len(labels)), labels)
    axes.set(xlabel="similarity of the nearest source that is known", ylabel="chrF")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    save_figure(figure, path)
