"""An embedding of each example, learned without its label."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from assay.plugins.contract import BadData, Batch, Card, Data, DataSpec, Problem


class Representation(Problem):
    """An embedding: a prediction is (N, D), compared by the cosine of the angle between two. The class `y` is
    for evaluation, and for objectives that say so.

    The error of an example says how often another of its class is farther from it than one of another class,
    within its batch. An attribution explains the embedding's length, which needs no label and no other model's
    embedding.
    """

    card = Card(
        title="Label-Free Explainability for Unsupervised Models",
        paper="arxiv:2203.01928",
    )
    fields: ClassVar[tuple[str, ...]] = ("x", "y")
    objective: ClassVar[str] = "instance_discrimination"
    headline: ClassVar[str] = "accuracy/knn"

    def check(self, data: Data) -> None:
        """Raises BadData: no embedding's size, labels missing, no whole numbers or out of range."""
        if data.spec.outputs < 2:
            raise BadData("a representation's spec must say how long an embedding is: `outputs`, at least 2")
        classes = len(data.spec.classes)
        for name, split in data.splits.items():
            if "y" not in split.fields:
                raise BadData(f"split '{name}' has no labels to evaluate by: field `y` is missing")
            y = np.asarray(split.fields["y"])
            if y.dtype.kind not in "iu" or y.ndim != 1 or y.min() < 0 or y.max() >= classes:
                raise BadData(f"labels of split '{name}' must be whole numbers in 0..{classes - 1}")

    def output(self, spec: DataSpec) -> tuple[int, ...]:
        """The embedding."""
        return (spec.outputs,)

    def target(self, prediction: Tensor) -> Tensor:
        """The embedding."""
        return prediction.detach()

    def score(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The embedding's length: its product with its own direction, held fixed. The target, an embedding of
        another model whose axes are others, takes no part."""
        return (prediction * F.normalize(prediction.detach(), dim=1)).sum(dim=1)

    def error(self, prediction: Tensor, batch: Batch) -> Tensor:
        """The share of pairs, one of the batch's other examples of its class and one of another, of which the
        first is not the nearer (a tie counts half); one half where there is no such pair."""
        unit = F.normalize(prediction.float(), dim=1)
        likeness, others = unit @ unit.T, ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
        kin = batch.y[:, None] == batch.y
        found = []
        for row, own, strange in zip(likeness, kin & others, ~kin):
            ahead = row[own][:, None] - row[strange]
            found.append(0.5 - 0.5 * ahead.sign().mean() if ahead.numel() else row.new_tensor(0.5))
        return torch.stack(found)

    def chance(self, data: Data) -> float:
        """Error of embeddings that are all the same, or drawn at random."""
        return 0.5
