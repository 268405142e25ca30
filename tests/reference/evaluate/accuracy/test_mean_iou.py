"""Intersection over union against counts by hand and scikit-learn's Jaccard index."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from assay.plugins.contract import Context, Data, DataSpec, Split, Subject
from assay.plugins.evaluate.accuracy.mean_iou import MeanIoU, confusions, intersection_over_union

SPEC = DataSpec(problem="segmentation", shape=(1, 2, 3), classes=("a", "b", "c"))


def evaluated(y: np.ndarray, predicted: np.ndarray):  # type: ignore[no-untyped-def]
    logits = torch.nn.functional.one_hot(torch.from_numpy(predicted), 3).movedim(-1, 1).float()
    split = Split({"x": np.zeros((len(y), 1, *y.shape[1:]), np.float32), "y": y})
    spec = SPEC.model_copy(update={"shape": (1, *y.shape[1:])})
    data = {"main": Data(spec, {"test": split})}
    subject = Subject(torch.nn.Identity(), lambda batch: logits[batch.index], spec, data)
    return MeanIoU().evaluate(subject, Context(rng=torch.Generator(), spec=spec))


def test_two_images_by_hand() -> None:
    y = np.array([[[0, 0, 0], [1, 1, 0]], [[0, 0, 0], [0, 0, 0]]])
    predicted = np.array([[[0, 0, 1], [1, 1, 0]], [[0, 0, 2], [0, 0, 0]]])
    found = evaluated(y, predicted)
    # First: class 0: 3 of 4, class 1: 2 of 3, class 2 in neither. Second: 5 of 6, and 0 of 1 for class 2.
    first, second = (3 / 4 + 2 / 3) / 2, (5 / 6 + 0) / 2
    assert found.numbers["mean_iou"].each == pytest.approx([first, second])
    assert found.arrays["per_class"] == pytest.approx([8 / 10, 2 / 3, 0])
    assert found.numbers["dataset_iou"].value == pytest.approx((8 / 10 + 2 / 3) / 3)
    assert found.numbers["pixels"].each == pytest.approx([5 / 6, 5 / 6])
    assert found.arrays["confusion"].tolist() == [[8, 1, 1], [0, 2, 0], [0, 0, 0]]


def test_the_data_sets_value_is_the_jaccard_index() -> None:
    rng = np.random.default_rng(0)
    y, predicted = rng.integers(0, 3, (2, 5, 8, 8))
    found = evaluated(y, predicted)
    expected = jaccard_score(y.ravel(), predicted.ravel(), average=None)
    assert found.arrays["per_class"] == pytest.approx(expected)
    each = [jaccard_score(a.ravel(), b.ravel(), average="macro") for a, b in zip(y, predicted, strict=True)]
    assert found.numbers["mean_iou"].each == pytest.approx(each)
    assert found.numbers["mean_iou"].value == pytest.approx(np.mean(each))


def test_confusions_by_loops() -> None:
    rng = np.random.default_rng(1)
    y, predicted = rng.integers(0, 4, (2, 3, 5, 5))
    expected = np.zeros((3, 4, 4), dtype=int)
    for i in range(3):
        for true, seen in zip(y[i].ravel(), predicted[i].ravel(), strict=True):
            expected[i, true, seen] += 1
    assert np.array_equal(confusions(y, predicted, 4), expected)
    assert np.isnan(intersection_over_union(np.zeros((2, 2)))).all()
