"""Bound batches hold the same example of each class, and every other example once an epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.plugins.contract import BadInput, Context, DataSpec, Split
from assay.plugins.train.batches.class_bound import ClassBound

SPEC = DataSpec(problem="representation", shape=(1,), classes=("a", "b", "c"), outputs=2)


def test_every_batch_has_the_first_of_each_class() -> None:
    y = np.array([2, 2, 0, 1, 0, 1, 2, 0, 1, 2, 0, 0])
    split = Split({"x": np.zeros((12, 1), np.float32), "y": y})
    method = ClassBound(size=4)
    ctx = Context(rng=torch.Generator().manual_seed(0), spec=SPEC)
    for _ in range(3):
        batches = [batch.tolist() for batch in method.epoch(split, ctx)]
        assert len(batches) == method.steps(split) == 3
        assert all({0, 2, 3} <= set(batch) and len(set(batch)) == len(batch) for batch in batches)
        drawn = [i for batch in batches for i in batch[:4]]
        assert sorted(drawn) == list(range(12))


def test_it_needs_classes() -> None:
    split = Split({"x": np.zeros((4, 1), np.float32)})
    with pytest.raises(BadInput, match="needs a class `y`"):
        list(ClassBound().epoch(split, Context(rng=torch.Generator(), spec=SPEC)))
