"""One class out of several for each example."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from assay.plugins.contract import BadData, Batch, Card, Data, Problem

SUM = 1e-3
"""How far a sum of probabilities may be from 1."""


def check_classes(name: str, y: np.ndarray, classes: int) -> None:
    """Raises BadData where the labels of a split are no numbers of classes."""
    if y.dtype.kind not in "iu":
        raise BadData(f"labels of split '{name}' are {y.dtype}, they must be whole numbers")
    wrong = np.flatnonzero((y < 0) | (y >= classes))
    if len(wrong):
        at = int(wrong[0])
        raise BadData(
            f"split '{name}': label {int(y[at])} of example {at} is out of range: "
            f"there are {classes} classes, 0..{classes - 1} ({len(wrong)} such labels)"
        )


def check_probabilities(y: np.ndarray, classes: int) -> None:
    """Raises BadData where the labels of the training split are no probabilities (N, classes)."""
    if y.shape[1:] != (classes,):
        raise BadData(
            f"labels of split 'train' are {y.dtype} of shape {list(y.shape)}: they must be whole numbers, or a "
            f"probability of each of the {classes} classes"
        )
    wrong = np.flatnonzero((y < 0).any(axis=1) | (np.abs(y.sum(axis=1) - 1) > SUM))
    if len(wrong):
        at = int(wrong[0])
        raise BadData(f"split 'train': the labels {y[at].tolist()} of example {at} are no probabilities that sum to 1")


class Classification(Problem):
    """One class out of several: `y` is the class's number, a prediction is logits (N, classes). In the training
    split `y` may be probabilities (N, classes) instead, as of learned examples."""

    card = Card(title="Classification")
    fields: ClassVar[tuple[str, ...]] = ("x", "y")
    objective: ClassVar[str] = "cross_entropy"
    headline: ClassVar[str] = "accuracy/top1"

    def check(self, data: Data) -> None:
        """Raises BadData: labels missing, not whole numbers, out of range, a class without training
        examples, fewer than two classes."""
        classes = data.spec.classes
        if len(classes) < 2:
            raise BadData(f"classification needs at least two classes, the data have {len(classes)}: {list(classes)}")
        for name, split in data.splits.items():
            if "y" not in split.fields:
                raise BadData(f"split '{name}' has no labels: field `y` is missing")
            y = np.asarray(split.fields["y"])
            if name == "train" and y.dtype.kind == "f":
                check_probabilities(y, len(classes))
            else:
                check_classes(name, y, len(classes))
        if "train" in data.splits:
            y = np.asarray(data.train.fields["y"])
            counts = y.sum(axis=0) if y.ndim == 2 else np.bincount(y, minlength=len(classes))
            empty = [classes[i] for i in np.flatnonzero(counts == 0)]
            if len(classes) - len(empty) < 2:
                raise BadData("the training split holds one class only: there is nothing to tell apart")
            if empty:
                raise BadData(f"classes without any training example: {', '.join(empty)}")

    def target(self, prediction: Tensor) -> Tensor:
        """The predicted class."""
        return prediction.argmax(dim=1)

    def score(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The target class's logit."""
        return prediction.gather(1, target[:, None]).squeeze(1)

    def error(self, prediction: Tensor, batch: Batch) -> Tensor:
        """1 where the predicted class is wrong, else 0."""
        return (prediction.argmax(dim=1) != batch.y).float()

    def chance(self, data: Data) -> float:
        """Error of always naming the test split's most frequent class."""
        counts = np.bincount(np.asarray(data.test.fields["y"]), minlength=len(data.spec.classes))
        return 1.0 - float(counts.max() / counts.sum())
