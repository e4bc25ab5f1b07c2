"""How well probabilities of classes fit what is true: scores, calibration, and where they are worst."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BINS = 15  # of confidence, as in Guo et al. 2017
_SHOWN = 400  # characters of a text in a list of errors


def confusion_matrix(targets: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """[K, K] counts; rows are the truth, columns what was predicted."""
    flat = np.asarray(targets) * classes + np.asarray(predicted)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """precision, recall, f1 and support of each class; 0 where there is nothing to divide by."""
    right = np.diag(confusion).astype(float)
    support, predicted = confusion.sum(1), confusion.sum(0)
    return {
        "precision": right / np.maximum(predicted, 1),
        "recall": right / np.maximum(support, 1),
        "f1": 2 * right / np.maximum(support + predicted, 1),
        "support": support,
    }


def calibration(probabilities: np.ndarray, targets: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """Confidence against accuracy in `bins` equal parts of (0, 1], and their mean distance.

    "ece" is the expected calibration error (Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599).
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == targets
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    sure, hit = (
        np.bincount(bin_of, values, bins) / np.maximum(counts, 1) for values in (confidence, right)
    )
    return {
        "ece": float((counts * np.abs(sure - hit)).sum() / len(targets)),
        "bins": [
            {"confidence": float(sure[i]), "accuracy": float(hit[i]), "examples": int(counts[i])}
            for i in range(bins)
        ],
    }


def classification_report(
    probabilities: np.ndarray, targets: Sequence[int], labels: Sequence[str]
) -> dict[str, Any]:
    """Everything that probabilities [n, K] and true classes [n] say; ready for JSON.

    "loss" is the mean of -log p(truth) in nats, "brier" the mean squared distance of probabilities
    from the truth. Raises ValueError where shapes disagree or there is nothing to measure.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    truths = np.asarray(targets, dtype=np.int64)
    n, classes = len(truths), len(labels)
    if n == 0 or probabilities.shape != (n, classes):
        raise ValueError(
            f"classification_report: probabilities has shape {list(probabilities.shape)}, expected"
            f" [{n}, {classes}] for targets and labels, and at least one row"
        )
    confusion = confusion_matrix(truths, probabilities.argmax(1), classes)
    each = scores(confusion)
    calibrated = calibration(probabilities, truths)
    truth = probabilities[np.arange(n), truths]
    squared = np.square(probabilities).sum(1) - 2 * truth + 1
    return {
        "examples": n,
        "accuracy": float(np.diag(confusion).sum() / n),
        "macro_f1": float(each["f1"].mean()),
        "weighted_f1": float((each["f1"] * each["support"]).sum() / n),
        "loss": float(-np.log(np.maximum(truth, 1e-300)).mean()),
        "brier": float(squared.mean()),
        "ece": calibrated["ece"],
        "classes": {
            label: {name: values[i].item() for name, values in each.items()}
            for i, label in enumerate(labels)
        },
        "labels": list(labels),
        "confusion": confusion.tolist(),
        "calibration": calibrated["bins"],
    }


def worst_errors(
    probabilities: np.ndarray, targets: Sequence[int], texts: Sequence[str], labels: Sequence[str],
    count: int = 10,
) -> list[dict[str, Any]]:  # fmt: skip
    """The texts whose truth got the smallest probability, the worst first; only wrong ones."""
    probabilities = np.asarray(probabilities)
    truth = probabilities[np.arange(len(targets)), targets]
    predicted = probabilities.argmax(1)
    order = [i for i in np.argsort(truth, kind="stable") if predicted[i] != targets[i]][:count]
    return [
        {
            "text": _shortened(texts[i]), "label": labels[targets[i]],
            "predicted": labels[predicted[i]], "probability_of_label": float(truth[i]),
        }
        for i in order
    ]  # fmt: skip


def _shortened(text: str) -> str:
    """Beginning and end of a long text, on one line."""
    line = " ".join(text[: 4 * _SHOWN].split()) if len(text) <= 4 * _SHOWN else " ".join(
        (text[:_SHOWN] + " " + text[-_SHOWN:]).split()
    )  # fmt: skip
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN // 2]} ... {line[-(_SHOWN // 2) :]}"
