"""Average precision of detections."""

from __future__ import annotations

import numpy as np
import torch

from assay.plugins._boxes import FILLING, iou
from assay.plugins.contract import Card, Context, Evaluator, Field, NotAuditable, Number, Result, Subject
from assay.plugins.evaluate._common import predictions

THRESHOLDS = np.arange(50, 100, 5) / 100


def claim(overlap: np.ndarray, threshold: float) -> np.ndarray:
    """Which detections (K,) of one image and class are right, given their overlaps (K, M) with the true boxes,
    the highest score first: each takes the best box that is still free, if that overlaps by `threshold`."""
    free = np.ones(overlap.shape[1], dtype=bool)
    right = np.zeros(len(overlap), dtype=bool)
    for k, row in enumerate(overlap):
        open_row = np.where(free, row, -1.0)
        best = int(open_row.argmax()) if len(row) else -1
        if best >= 0 and open_row[best] >= threshold:
            right[k], free[best] = True, False
    return right


def precision_at(scores: np.ndarray, right: np.ndarray, objects: int, recalls: int) -> np.ndarray:
    """The best precision at each of `recalls` evenly spaced recalls from 0 to 1 or any higher one (0 where it
    is not reached), of detections of one class over all images."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    wanted = np.linspace(0, 1, recalls)
    return np.asarray(envelope[np.searchsorted(hits / objects, wanted - 1e-12)])


def precisions(detections: np.ndarray, boxes: np.ndarray, kind: int, recalls: int) -> np.ndarray:
    """`precision_at` of one class for each of THRESHOLDS, (10, recalls), from detections (N, K, 6) and true
    boxes (N, M, 5); NaN where no image has an object of the class."""
    objects = int((boxes[..., 0] == kind).sum())
    if not objects:
        return np.full((len(THRESHOLDS), recalls), np.nan)
    scores: list[np.ndarray] = []
    right: list[np.ndarray] = []
    for found, true in zip(detections, boxes, strict=True):
        own = found[(found[:, 0] == kind) & (found[:, 1] > 0)]
        own = own[np.argsort(-own[:, 1], kind="stable")]
        wanted = true[true[:, 0] == kind, 1:]
        overlap = iou(torch.from_numpy(own[:, 2:]), torch.from_numpy(wanted)).numpy()
        scores.append(own[:, 1])
        right.append(np.stack([claim(overlap, t) for t in THRESHOLDS], axis=1))
    score, hit = np.concatenate(scores), np.concatenate(right)
    return np.stack([precision_at(score, hit[:, t], objects, recalls) for t in range(len(THRESHOLDS))])


class MeanAveragePrecision(Evaluator):
    """Area under the precision-recall curve of each class's detections, averaged over classes.

    `ap50` counts a detection as right where it overlaps a true box of its class, not yet taken by one of a
    higher score, by an intersection over union of 0.5; `ap` is the mean over 0.5, 0.55, ..., 0.95, as the
    COCO benchmark has it. Both say of all test images together: they have no interval over images. Arrays:
    `per_class` (C,), each class's `ap`, NaN where the test split has no such object; `recall` and
    `precision` (recalls,) at 0.5, mean over classes.
    """

    card = Card(
        title="Microsoft COCO: Common Objects in Context",
        paper="arxiv:1405.0312",
        problems=("detection",),
    )
    recalls: int = Field(101, ge=2, le=10_001, description="recalls at which precision is averaged; VOC 2007 has 11")

    def numbers(self) -> tuple[str, ...]:
        return ("ap", "ap50")

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        split = subject.data["main"].test
        boxes = np.asarray(split.fields["boxes"]).astype(np.float64)
        if not (boxes[..., 0] != FILLING).any():
            raise NotAuditable("no test image has an object")
        detections = predictions(subject, split, ctx).numpy()
        classes = range(len(subject.spec.classes))
        curves = np.stack([precisions(detections, boxes, kind, self.recalls) for kind in classes])
        per_class = curves.mean(axis=(1, 2))
        numbers = {
            "ap": Number(
                float(np.nanmean(per_class)), "", 1, "Average precision, mean over classes and IoU .5 to .95."
            ),
            "ap50": Number(
                float(np.nanmean(curves[:, 0].mean(axis=1))), "", 1, "Average precision at IoU 0.5, mean over classes."
            ),
        }
        arrays = {
            "per_class": per_class,
            "recall": np.linspace(0, 1, self.recalls),
            "precision": np.nanmean(curves[:, 0], axis=0),
        }
        return Result(numbers, arrays)
