"""Several objects in an image: the class and box of each."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from assay.plugins._boxes import CONFIDENT, FILLING, OVERLAP, alike, matched
from assay.plugins.contract import BadData, Batch, Card, Data, DataSpec, Problem


class Detection(Problem):
    """Objects in an image: `boxes` (N, M, 5) holds class, x0, y0, x1, y1 of each in pixels, filled up with
    rows of -1; a prediction (N, K, 6) class, score in [0, 1] and box of K detections, of score 0 where there
    is none.

    The error of an image is 1 - F1 of its detections of score 0.3 and more, matched at an intersection over
    union of one half (0 where there is nothing to find and nothing found). An attribution explains the
    dense model's detections: for each, the score of what the model finds there (D-RISE's similarity).
    """

    card = Card(title="Black-box Explanation of Object Detectors via Saliency Maps", paper="arxiv:2006.03204")
    fields: ClassVar[tuple[str, ...]] = ("x", "boxes")
    objective: ClassVar[str] = "grid_detection"
    headline: ClassVar[str] = "accuracy/mean_average_precision"

    def check(self, data: Data) -> None:
        """Raises BadData: no images, no classes, boxes missing, of another shape, of an unknown class, empty
        or beyond the image."""
        if len(data.spec.shape) != 3:
            raise BadData(f"detection needs images (channels, height, width), not {list(data.spec.shape)}")
        classes = len(data.spec.classes)
        if not classes:
            raise BadData("detection needs at least one class of objects")
        for name, split in data.splits.items():
            if "boxes" not in split.fields:
                raise BadData(f"split '{name}' has no boxes: field `boxes` is missing")
            boxes = np.asarray(split.fields["boxes"])
            if boxes.ndim != 3 or boxes.shape[2] != 5 or boxes.dtype.kind != "f":
                raise BadData(f"boxes of split '{name}' are {boxes.dtype} {boxes.shape}; they must be floats (N, M, 5)")
            height, width = data.spec.shape[1:]
            kind, x0, y0, x1, y1 = np.moveaxis(boxes, 2, 0)
            sound = (kind == kind.round()) & (kind >= 0) & (kind < classes)
            sound &= (x0 >= 0) & (x0 < x1) & (x1 <= width) & (y0 >= 0) & (y0 < y1) & (y1 <= height)
            wrong = np.argwhere(~sound & (kind != FILLING))
            if len(wrong):
                at = tuple(wrong[0])
                raise BadData(
                    f"split '{name}': box {at[1]} of example {at[0]} is {boxes[at].tolist()}: class 0..{classes - 1}, "
                    f"x0 < x1 and y0 < y1 within {width} x {height} are needed, or class -1 for none"
                )

    def output(self, spec: DataSpec) -> tuple[int, ...]:
        """K, which a model decides, and the six numbers of a detection: -1 stands for any."""
        return (-1, 6)

    def target(self, prediction: Tensor) -> Tensor:
        """The detections."""
        return prediction.detach()

    def score(self, prediction: Tensor, target: Tensor) -> Tensor:
        """For each detection of the target the best score times overlap of a prediction of its class, added
        up with the target's scores as weights."""
        found = (alike(target, prediction) * prediction[:, None, :, 1]).amax(dim=2)
        return (target[..., 1] * found).sum(dim=1)

    def same(self, a: Tensor, b: Tensor) -> Tensor:
        """Whether each confident detection of either has one of its class in the other that overlaps by half."""
        sure_a, sure_b = a[..., 1] >= CONFIDENT, b[..., 1] >= CONFIDENT
        pairs = (alike(a, b) >= OVERLAP) & sure_a[:, :, None] & sure_b[:, None, :]
        return (pairs.any(2) | ~sure_a).all(1) & (pairs.any(1) | ~sure_b).all(1)

    def error(self, prediction: Tensor, batch: Batch) -> Tensor:
        """1 - F1 of the confident detections."""
        hits, detections, objects = matched(prediction, batch.boxes)
        total = detections + objects
        return torch.where(total > 0, 1 - 2 * hits / total.clamp_min(1), 0.0).float()

    def chance(self, data: Data) -> float:
        """Error of never detecting anything: the share of test images with an object."""
        return float((np.asarray(data.test.fields["boxes"])[..., 0] != FILLING).any(axis=1).mean())
