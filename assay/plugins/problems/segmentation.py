"""A class for every pixel."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from assay.plugins.contract import BadData, Batch, Card, Data, DataSpec, Problem


def image_iou(a: Tensor, b: Tensor, classes: int) -> Tensor:
    """Intersection over union of two label maps (N, H, W), averaged over the classes that either shows: (N,)."""
    first, second = (F.one_hot(labels, classes).bool().flatten(1, 2) for labels in (a, b))
    both, either = (first & second).sum(1).double(), (first | second).sum(1).double()
    shown = either > 0
    return torch.where(shown, both / either.clamp_min(1), 0.0).sum(1) / shown.sum(1)


class Segmentation(Problem):
    """A class for every pixel: `y` is (N, H, W), a prediction logits (N, classes, H, W).

    The error is the share of wrong pixels. An attribution explains the logits of the predicted classes:
    their mean over each class's pixels, then over classes, so that a small object counts as much as a
    large background.
    """

    card = Card(title="Semantic segmentation")
    fields: ClassVar[tuple[str, ...]] = ("x", "y")
    objective: ClassVar[str] = "cross_entropy"
    headline: ClassVar[str] = "accuracy/mean_iou"

    def check(self, data: Data) -> None:
        """Raises BadData: no images, label maps missing, of another size, not whole numbers or out of range,
        fewer than two classes."""
        classes = len(data.spec.classes)
        if len(data.spec.shape) != 3:
            raise BadData(f"segmentation needs images (channels, height, width), not {list(data.spec.shape)}")
        if classes < 2:
            raise BadData(f"segmentation needs at least two classes, the data have {classes}")
        for name, split in data.splits.items():
            if "y" not in split.fields:
                raise BadData(f"split '{name}' has no label maps: field `y` is missing")
            y = np.asarray(split.fields["y"])
            if y.dtype.kind not in "iu" or y.shape[1:] != data.spec.shape[1:]:
                raise BadData(
                    f"label maps of split '{name}' are {y.dtype} of shape {list(y.shape[1:])}; "
                    f"they must be whole numbers, one a pixel: {list(data.spec.shape[1:])}"
                )
            wrong = np.flatnonzero(((y < 0) | (y >= classes)).reshape(len(y), -1).any(axis=1))
            if len(wrong):
                raise BadData(f"split '{name}': example {wrong[0]} has a label out of 0..{classes - 1}")

    def output(self, spec: DataSpec) -> tuple[int, ...]:
        """Logits of each class at each pixel."""
        return (spec.n_outputs, *spec.shape[1:])

    def target(self, prediction: Tensor) -> Tensor:
        """The predicted class of each pixel (N, H, W)."""
        return prediction.argmax(dim=1)

    def score(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The mean logit of the target's class over each class's pixels, averaged over the classes it has."""
        member = F.one_hot(target, prediction.shape[1]).movedim(-1, 1).to(prediction)
        count = member.flatten(2).sum(2)
        means = (prediction * member).flatten(2).sum(2) / count.clamp_min(1)
        return means.sum(1) / (count > 0).sum(1)

    def same(self, a: Tensor, b: Tensor) -> Tensor:
        """Whether two label maps overlap by at least a half: their mean intersection over union."""
        return image_iou(a, b, int(max(a.max(), b.max())) + 1) >= 0.5

    def error(self, prediction: Tensor, batch: Batch) -> Tensor:
        """The share of pixels whose predicted class is wrong."""
        return (prediction.argmax(dim=1) != batch.y).float().flatten(1).mean(dim=1)

    def chance(self, data: Data) -> float:
        """Error of naming every pixel the test split's most frequent class."""
        counts = np.bincount(np.asarray(data.test.fields["y"]).ravel(), minlength=len(data.spec.classes))
        return 1.0 - float(counts.max() / counts.sum())
