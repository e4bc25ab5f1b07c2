"""Where labelled data comes from, as the options of the commands say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fusedlm.data.labelled import Labelled, Skipped
    from fusedlm.data.tagged import Tagged
    from fusedlm.data.tokenizer import Tokenizer
    from fusedlm.models.texts import Classifier

Text = Annotated[str, typer.Option(help="Column or JSON key of the text; a number without header.")]
Label = Annotated[str, typer.Option(help="That of the label. In CoNLL files both are numbers.")]
Where = Annotated[
    list[str] | None,
    typer.Option(help="Only rows with this value in a column, COLUMN=VALUE.", show_default="all"),
]
Format = Annotated[
    str | None,
    typer.Option(help="folder, csv, tsv, jsonl or conll.", show_default="by the file's name"),
]
Group = Annotated[
    str | None,
    typer.Option(
        help="Compare the rates of groups: the column that names them.", show_default="none"
    ),
]
Positive = Annotated[
    str | None, typer.Option(help="With --group: the class that is given or withheld.")
]
TestShare = Annotated[
    float,
    typer.Option(
        min=0, max=0.9,
        help="Share of the texts to test on where the data has no test half, chosen by a hash of each.",
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Files of labelled data and how to read them; kept in run.json, so that a run can go on."""

    data: str
    test: str | None = None
    test_share: float = 0.2
    validation: float = 0.05
    text: str = "text"
    label: str = "label"
    where: list[str] = field(default_factory=list)
    format: str | None = None
    group: str | None = None
    positive: str | None = None

    @property
    def task(self) -> str:
        from fusedlm.data.tagged import SUFFIXES

        tagged = self.format == "conll" or (
            self.format is None and Path(self.data).suffix.lower() in SUFFIXES
        )
        return "token" if tagged else "sequence"


@dataclass(frozen=True)
class Splits:
    """What to learn from, to choose the best model on, and to measure it on (None: nothing)."""

    train: Labelled | Tagged
    validation: Labelled | Tagged
    test: Labelled | Tagged | None
    labels: list[str]
    skipped: Skipped


def read_splits(source: Source) -> Splits:
    """Reads everything, splits it by hashes, and leaves out texts of classes never trained on."""
    data: Labelled | Tagged
    test: Labelled | Tagged | None
    data, test = _read(source, source.data)
    skipped = data.skipped
    if source.test is not None:
        test = _test_half(source, source.test)
    elif test is None and source.test_share:
        data, test = data.split(source.test_share, "test")
    train, validation = data.split(source.validation, "validation")
    return _of_known_classes(source, train, validation, test, skipped)


def with_tokens(source: Source, splits: Splits, model: Classifier, tokenizer: Tokenizer) -> Splits:
    """Without what has no tokens for the model, which is counted, and then of fewer classes perhaps."""
    train, validation = (
        _with_tokens(part, model, tokenizer) for part in (splits.train, splits.validation)
    )
    test = _to_measure(splits.test, model, tokenizer) if splits.test is not None else None
    return _of_known_classes(source, train, validation, test, splits.skipped)


def _of_known_classes(
    source: Source, train: Labelled | Tagged, validation: Labelled | Tagged,
    test: Labelled | Tagged | None, skipped: Skipped,
) -> Splits:  # fmt: skip
    """The parts with the classes of the training part, and what each left out counted in `skipped`."""
    from fusedlm.data.labelled import Labelled, keep_known, label_names
    from fusedlm.data.tagged import Tagged, keep_known_tags, tag_names

    shares = {"train": None, "validation": source.validation, "test": source.test_share}

    def must_hold_some(name: str, part: Labelled | Tagged) -> None:
        if not len(part):
            share = shares[name]
            raise ValueError(
                f"{source.data}: no text is left for {name}"
                + ("" if share is None else f" with a share of {share:g}")
                + f"; {len(train) + len(validation)} are left to train and validate"
            )

    must_hold_some("train", train)
    if isinstance(train, Tagged):
        labels = tag_names(train.tags)
    else:
        labels = label_names(train.labels)
    must_hold_some("validation", validation)
    if test is not None:
        must_hold_some("test", test)
    if isinstance(validation, Tagged):
        validation = keep_known_tags(validation, labels)
    else:
        validation = keep_known(validation, labels, f"the validation part of {source.data}")
    if isinstance(test, Labelled):
        test = keep_known(test, labels, source.test or source.data)
    must_hold_some("validation", validation)
    for part in (train, validation, test):
        if part is not None:
            skipped.add_all(part.skipped)
            part.skipped = type(skipped)()
    return Splits(train, validation, test, labels, skipped)


def read_test(
    source: Source, labels: list[str], model: Classifier, tokenizer: Tokenizer
) -> Labelled | Tagged:
    """The test half of a folder, or all of a file, for a model that knows `labels`."""
    from fusedlm.data.labelled import Labelled, keep_known

    data = _to_measure(_test_half(source, source.data), model, tokenizer)
    if not len(data):
        raise ValueError(
            f"{source.data} holds nothing to measure; {'; '.join(data.skipped.lines())}"
        )
    return keep_known(data, labels, source.data) if isinstance(data, Labelled) else data


def _to_measure(
    data: Labelled | Tagged, model: Classifier, tokenizer: Tokenizer
) -> Labelled | Tagged:
    """A tagger says O of words without tokens, right or wrong; of a text a classifier can say nothing."""
    from fusedlm.data.labelled import Labelled

    return _with_tokens(data, model, tokenizer) if isinstance(data, Labelled) else data


def _with_tokens(
    data: Labelled | Tagged, model: Classifier, tokenizer: Tokenizer
) -> Labelled | Tagged:
    from fusedlm.data.labelled import Labelled
    from fusedlm.models.tagging import wordless
    from fusedlm.models.texts import tokenless

    if isinstance(data, Labelled):
        none = set(tokenless(model, tokenizer, data.texts))
    else:
        none = set(wordless(model, tokenizer, data.sentences))
    if not none:
        return data
    kept = data.part([i for i in range(len(data)) if i not in none])
    kept.skipped = data.skipped
    for number in sorted(none):
        kept.skipped.add("the text has no tokens", data.place(number))
    return kept


def check_groups(source: Source, labels: list[str]) -> None:
    """Raises ValueError where groups are asked for that cannot be compared."""
    if (source.group is None) != (source.positive is None):
        raise ValueError("--group and --positive need each other")
    if source.group is not None and source.task == "token":
        raise ValueError("--group compares classes of texts; words have no group")
    if source.positive is not None and source.positive not in labels:
        raise ValueError(f"--positive is {source.positive!r}, expected one of {', '.join(labels)}")


def _test_half(source: Source, path: str) -> Labelled | Tagged:
    data, test = _read(source, path)
    return data if test is None else test


def _read(source: Source, path: str) -> tuple[Labelled | Tagged, Labelled | None]:
    from fusedlm.data.labelled import Columns, read_labelled
    from fusedlm.data.tagged import read_tagged

    if source.task == "token":
        word, tag = (_number(source.text, "text", 0), _number(source.label, "label", -1))
        return read_tagged(path, word=word, tag=tag), None
    pairs = [pair.partition("=") for pair in source.where]
    if bad := [name for name, equals, _ in pairs if not equals]:
        raise ValueError(f"--where is {bad[0]!r}, expected COLUMN=VALUE")
    where = {name: value for name, _, value in pairs}
    columns = Columns(source.text, source.label, where, source.group)
    return read_labelled(path, columns, format=source.format)


def _number(given: str, name: str, default: int) -> int:
    if given == name:  # the default, which names a column of other files
        return default
    try:
        return int(given)
    except ValueError:
        raise ValueError(
            f"--{name} is {given!r}, expected the number of a column of a CoNLL file"
        ) from None
