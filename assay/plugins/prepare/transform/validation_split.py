"""A validation split out of the training split."""

from __future__ import annotations

import numpy as np

from assay.plugins.contract import BadData, Card, Context, Data, Field, Record, Transform
from assay.plugins.prepare.transform._common import draw_seed, labels_of, pick, split_rng


class ValidationSplit(Transform):
    """Sets a random share of the training examples apart as the split `validation`, in proportion to the classes.

    Methods that tune while they train use it, and each epoch's error on it stands in a training's history. Transforms
    that come after fit on what is left for training.
    """

    card = Card(title="Stratified holdout validation split", gives=("validation",))
    share: float = Field(0.1, gt=0, lt=1, description="of the training examples; at least one stays on each side")
    stratify: bool = Field(True, description="keep the proportions of the classes, where there are class labels")

    def fit(self, data: Data, ctx: Context) -> Record:
        """The seed of the draw. Raises BadData where there is a validation split already, or nothing to split."""
        if "validation" in data.splits:
            raise BadData("transform/validation_split: the data have a split `validation` already")
        if len(data.train) < 2:
            raise BadData(f"transform/validation_split: {len(data.train)} training examples cannot be split")
        return Record({"seed": draw_seed(ctx)})

    def apply(self, data: Data, record: Record) -> Data:
        """The data with a smaller `train` and with `validation`, both in their old order; data without a training
        split as they are."""
        if "train" not in data.splits:
            return data
        train, count = data.train, len(data.train)
        most = min(max(1, round(self.share * count)), count - 1)
        rng = split_rng(record.values["seed"], "train")
        apart = pick(labels_of(train) if self.stratify else None, count, most, rng)
        rest = np.setdiff1d(np.arange(count), apart)
        return data.replace(splits={**data.splits, "train": train.take(rest), "validation": train.take(apart)})
