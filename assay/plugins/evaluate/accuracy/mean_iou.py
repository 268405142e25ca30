"""Mean intersection over union."""

from __future__ import annotations

import numpy as np

from assay.plugins.contract import Card, Context, Evaluator, Number, Result, Subject
from assay.plugins.evaluate._common import labels, mean_number, predictions


def confusions(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Pixel counts (N, C, C) of each image by true class (row) and predicted class (column)."""
    n = len(true)
    pair = (true * classes + predicted).reshape(n, -1) + classes * classes * np.arange(n)[:, None]
    return np.bincount(pair.ravel(), minlength=n * classes * classes).reshape(n, classes, classes)


def intersection_over_union(counts: np.ndarray) -> np.ndarray:
    """TP / (TP + FP + FN) of each class (..., C) from confusions (..., C, C); NaN for a class that neither
    the labels nor the predictions show."""
    right = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    union = counts.sum(-1) + counts.sum(-2) - right
    return np.divide(right, union, out=np.full(right.shape, np.nan), where=union > 0)


class MeanIoU(Evaluator):
    """Overlap of predicted and true regions, averaged over classes.

    `mean_iou` takes each image's own intersections and unions and is the mean over images (mIoU^I): it has
    an interval, and small objects count. `dataset_iou` adds up pixels over the test split first, as the
    PASCAL VOC benchmark does. Classes that neither labels nor predictions show do not count. Arrays:
    `per_class` (C,), the data set's value of each class, and `confusion` (C, C), pixels by true class
    (row) and predicted class (column).
    """

    card = Card(
        title="The PASCAL Visual Object Classes Challenge: A Retrospective",
        paper="doi:10.1007/s11263-014-0733-5",
        also=("arxiv:2310.19252",),
        problems=("segmentation",),
    )

    def numbers(self) -> tuple[str, ...]:
        return ("mean_iou", "dataset_iou", "pixels")

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        split = subject.data["main"].test
        logits = predictions(subject, split, ctx)
        counts = confusions(labels(split).numpy(), logits.argmax(dim=1).numpy(), logits.shape[1])
        each = np.nanmean(intersection_over_union(counts), axis=1)
        total = counts.sum(axis=0)
        per_class = intersection_over_union(total)
        right = np.trace(counts, axis1=1, axis2=2) / counts.sum(axis=(1, 2))
        numbers = {
            "mean_iou": mean_number(each, "Intersection over union, mean over an image's classes, then images.", 1),
            "dataset_iou": Number(
                float(np.nanmean(per_class)),
                "",
                1,
                "Intersection over union of all images together, mean over classes.",
            ),
            "pixels": mean_number(right, "Share of an image's pixels of the right class, mean over images.", 1),
        }
        return Result(numbers, {"confusion": total, "per_class": per_class})
