"""Batches that all hold the same examples, one of each class."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from assay.plugins.contract import BadInput, Batches, Card, Context, Field, Split
from assay.plugins.train.batches.shuffled import Shuffled


class ClassBound(Batches):
    """Random batches, each with one and the same example of every class added (the first of each in the data),
    which binds the batches' geometries to each other: batch-binding."""

    card = Card(
        title="Symmetric Neural-Collapse Representations with Supervised Contrastive Loss: The Impact of ReLU and "
        "Batching",
        paper="arxiv:2306.07960",
        claim="With small batches the class means come closer to orthogonal and of equal length.",
        verdict="reproduced",
        problems=("classification", "representation", "graph"),
    )
    size: int = Field(128, ge=1, description="examples in a batch, without those that are added")

    def epoch(self, data: Split, ctx: Context) -> Iterable[Tensor]:
        """int64 index tensors; an added example stands in its batch once. Raises BadInput without labels."""
        y = np.asarray(data.fields.get("y"))
        if y.ndim != 1 or y.dtype.kind not in "iu":
            raise BadInput("train.batches: class_bound needs a class `y` of each example")
        bound = torch.from_numpy(np.unique(y, return_index=True)[1].astype(np.int64))
        for batch in Shuffled(size=self.size).epoch(data, ctx):
            yield torch.cat([batch, bound[~torch.isin(bound, batch)]])

    def steps(self, data: Split) -> int:
        """Batches in an epoch."""
        return Shuffled(size=self.size).steps(data)
