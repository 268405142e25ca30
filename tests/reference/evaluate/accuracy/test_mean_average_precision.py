"""Average precision against a table worked by hand, with detections at exact overlaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.plugins.contract import Context, Data, DataSpec, NotAuditable, Result, Split, Subject
from assay.plugins.evaluate.accuracy.mean_average_precision import MeanAveragePrecision, claim, precision_at

SPEC = DataSpec(problem="detection", shape=(1, 100, 100), classes=("a", "b"))
NONE = [0, 0, 0, 0, 0, 0]


def evaluated(boxes: list[list[list[float]]], detections: list[list[list[float]]], recalls: int = 101) -> Result:
    y = np.array(boxes, dtype=np.float32)
    found = torch.tensor(detections, dtype=torch.float64)
    split = Split({"x": np.zeros((len(y), 1, 100, 100), np.uint8), "boxes": y})
    data = {"main": Data(SPEC, {"test": split})}
    subject = Subject(torch.nn.Identity(), lambda batch: found[batch.index], SPEC, data)
    return MeanAveragePrecision(recalls=recalls).evaluate(subject, Context(rng=torch.Generator(), spec=SPEC))


def shifted(score: float, share: float, left: float = 0.0) -> list[float]:
    """A detection of class 0 within the box (left, 0, left + 10, 10) that covers this share of it, its IoU."""
    return [0, score, left, 0, left + 10 * share, 10]


def test_a_table_by_hand() -> None:
    boxes = [[[0, 0, 0, 10, 10], [0, 40, 0, 50, 10]], [[0, 0, 0, 10, 10], [-1, -1, -1, -1, -1]]]
    # By score: right (image 0), a second one of the same object (wrong), right (image 1), far off, none at 0.
    detections = [
        [shifted(0.9, 1.0), shifted(0.8, 0.9), NONE],
        [shifted(0.7, 0.6), shifted(0.6, 1.0, left=70), NONE],
    ]
    found = evaluated(boxes, detections)
    # At 0.5 and 0.6: hits 1, 0, 1, 0 of 3 objects: precision 1 to recall 1/3, then 2/3 to recall 2/3, then 0.
    low = (34 * 1 + 33 * 2 / 3) / 101
    # At 0.65 and above the third is wrong too: precision 1 to recall 1/3.
    high = 34 / 101
    assert found.numbers["ap50"].value == pytest.approx(low)
    assert found.numbers["ap"].value == pytest.approx((3 * low + 7 * high) / 10)
    assert found.arrays["per_class"][0] == pytest.approx((3 * low + 7 * high) / 10)
    assert np.isnan(found.arrays["per_class"][1])  # no object of class b


def test_a_class_in_the_wrong_place_or_of_another_name_is_wrong() -> None:
    boxes = [[[1, 0, 0, 10, 10]]]
    assert evaluated(boxes, [[[0, 0.9, 0, 0, 10, 10]]]).numbers["ap"].value == 0.0
    assert evaluated(boxes, [[[1, 0.9, 0, 0, 10, 10]]]).numbers["ap"].value == pytest.approx(1.0)
    assert evaluated(boxes, [[NONE]]).numbers["ap"].value == 0.0


def test_a_wrong_detection_of_a_higher_score_halves_the_precision() -> None:
    boxes = [[[0, 0, 0, 10, 10]]]
    found = evaluated(boxes, [[shifted(0.9, 1.0, left=50), shifted(0.5, 1.0)]], recalls=11)
    assert found.numbers["ap50"].value == pytest.approx(0.5)


def test_the_best_free_box_is_taken() -> None:
    overlap = np.array([[0.6, 0.7], [0.55, 0.8], [0.9, 0.2]])
    assert claim(overlap, 0.5).tolist() == [True, True, False]
    assert claim(overlap, 0.75).tolist() == [False, True, True]
    assert claim(np.zeros((2, 0)), 0.5).tolist() == [False, False]


def test_precision_is_the_best_at_any_higher_recall() -> None:
    right = np.array([True, False, True, True, False])
    found = precision_at(np.array([0.9, 0.8, 0.7, 0.6, 0.5]), right, 4, 5)
    assert found.tolist() == pytest.approx([1, 1, 3 / 4, 3 / 4, 0])


def test_without_any_object_there_is_nothing_to_measure() -> None:
    with pytest.raises(NotAuditable, match="no test image"):
        evaluated([[[-1, -1, -1, -1, -1]]], [[NONE]])
