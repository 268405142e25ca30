"""Accuracy of the most probable class."""

from __future__ import annotations

import numpy as np

from assay.plugins.contract import Card, Context, Evaluator, Result, Subject
from assay.plugins.evaluate._common import labels, mean_number, predictions


def confusion(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts (C, C) of examples by true class (row) and predicted class (column)."""
    pairs = np.bincount(true * classes + predicted, minlength=classes * classes)
    return pairs.reshape(classes, classes)


class Top1(Evaluator):
    """The share of test examples whose highest prediction is the true class.

    Arrays: `confusion` (C, C), counts by true class (row) and predicted class (column), and `per_class`
    (C,), the accuracy among each class's examples, NaN for a class without any.
    """

    card = Card(title="Top-1 accuracy", problems=("classification", "graph"))

    def numbers(self) -> tuple[str, ...]:
        return ("top1",)

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        split = subject.data["main"].test
        logits = predictions(subject, split, ctx)
        true, predicted = labels(split).numpy(), logits.argmax(dim=1).numpy()
        counts = confusion(true, predicted, logits.shape[1])
        totals = counts.sum(axis=1)
        per_class = np.full(len(totals), np.nan)
        np.divide(counts.diagonal(), totals, out=per_class, where=totals > 0)
        top1 = mean_number(predicted == true, "Share of test examples whose highest prediction is the true class.", 1)
        return Result({"top1": top1}, {"confusion": counts, "per_class": per_class})
