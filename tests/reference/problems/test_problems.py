"""What the problems say of predictions, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from assay.plugins.contract import BadData, Batch, Data, DataSpec, Split
from assay.plugins.evaluate._common import labels
from assay.plugins.problems.classification import Classification
from assay.plugins.problems.detection import Detection
from assay.plugins.problems.graph import Graph
from assay.plugins.problems.representation import Representation
from assay.plugins.problems.segmentation import Segmentation
from assay.plugins.problems.sequence import Sequence


def data(spec: DataSpec, **fields: Any) -> Data:
    split = Split({name: np.array(values) for name, values in fields.items()})
    return Data(spec, {"train": split, "test": split})


# segmentation

MAPS = DataSpec(problem="segmentation", shape=(1, 1, 4), classes=("a", "b", "c"))


def test_segmentation() -> None:
    problem = Segmentation()
    logits = torch.tensor([[[[3.0, 1, 0, 2]], [[0, 2, 5, 0]], [[0, 0, 0, 1]]]])
    target = problem.target(logits)
    assert target.tolist() == [[[0, 1, 1, 0]]]
    assert float(problem.score(logits, target)) == pytest.approx(((3 + 2) / 2 + (2 + 5) / 2) / 2)
    y = torch.tensor([[[0, 1, 2, 2]]])
    assert float(problem.error(logits, Batch({"y": y}))) == 0.5
    # Classes 0: 1 of 2, 1: 1 of 2, 2: 0 of 2: a mean of 1 / 3.
    assert not problem.same(target, y)
    assert problem.same(y, torch.tensor([[[0, 1, 2, 0]]]))  # 1 / 2, 1, 1 / 2
    assert problem.output(MAPS) == (3, 1, 4)
    assert problem.chance(data(MAPS, x=np.zeros((1, 1, 1, 4)), y=[[[0, 1, 1, 1]]])) == 0.25


# detection

SCENE = DataSpec(problem="detection", shape=(1, 20, 20), classes=("a", "b"))
FOUND = torch.tensor([[[0, 0.9, 0, 0, 10, 10], [0, 0.8, 2, 0, 10, 10], [1, 0.1, 12, 12, 18, 18]]])


def test_detection() -> None:
    problem = Detection()
    boxes = torch.tensor([[[0, 0, 0, 10, 10], [1, 12, 12, 18, 18], [-1, -1, -1, -1, -1]]]).float()
    # One right of two confident ones and of two objects.
    assert float(problem.error(FOUND, Batch({"boxes": boxes}))) == pytest.approx(0.5)
    nothing = torch.full((1, 1, 5), -1.0)
    assert float(problem.error(torch.zeros(1, 3, 6), Batch({"boxes": nothing}))) == 0.0
    # For each detection of the target the best score times overlap: the first itself, the second the first (0.8
    # of its area; 0.9 * 0.8 = 0.72 against its own 0.8), the third itself.
    assert float(problem.score(FOUND, FOUND)) == pytest.approx(0.9 * 0.9 + 0.8 * 0.8 + 0.1 * 0.1)
    moved = FOUND[:, [2, 0, 1]]
    assert float(problem.score(moved, FOUND)) == pytest.approx(float(problem.score(FOUND, FOUND)))
    assert problem.same(FOUND, moved)
    other = FOUND.clone()
    other[0, 2, 1] = 0.9
    assert not problem.same(FOUND, other)
    assert problem.same(FOUND, FOUND[:, :1].expand(1, 3, 6))  # the second overlaps the first
    assert problem.chance(data(SCENE, x=np.zeros((2, 1)), boxes=[[[0.0, 0, 0, 1, 1]], [[-1.0] * 5]])) == 0.5


# sequence

TOKENS = DataSpec(problem="sequence", modality="tokens", shape=(3,), classes=("a", "b"), high=(2.0,))


def test_sequence() -> None:
    problem = Sequence()
    logits = torch.tensor([[[1.0, 0], [0, 4], [2, 0]]])
    target = problem.target(logits)
    assert target.tolist() == [[0, 1, 0]]
    assert float(problem.score(logits, target)) == pytest.approx(7 / 3)
    assert float(problem.error(logits, Batch({"y": torch.tensor([[0, 0, -1]])}))) == 0.5
    assert problem.same(target, torch.tensor([[0, 1, 1]]))
    assert not problem.same(target, torch.tensor([[1, 0, 0]]))
    given = data(TOKENS, x=np.zeros((3, 3), np.int64), y=[[0, 1, 1], [0, 1, -1], [1, 0, 0]])
    # The best constant answer is 0, 1, and either: 2 + 2 + 1 right of 8.
    assert problem.chance(given) == pytest.approx(1 - 5 / 8)


# representation

EMBEDDED = DataSpec(problem="representation", shape=(2,), classes=("a", "b"), outputs=2)


def test_representation() -> None:
    problem = Representation()
    z = torch.tensor([[1.0, 0], [2, 0.1], [0, 3], [0.9, 1.0]], requires_grad=True)
    batch = Batch({"y": torch.tensor([0, 0, 1, 1])})
    # First: its kin at 0.05 rad is nearer than both others. Third: its kin (42 degrees) is nearer than both.
    # Fourth: its kin lies at 42 degrees, the first at 48, the second at 45: nearer than both.
    assert problem.error(z, batch).tolist() == [0, 0, 0, 0]
    worse = torch.tensor([[1.0, 0], [0, 1], [1, 0.1], [0, 1]])
    # First: its kin at a right angle; one stranger nearer, one as far. Last: one stranger farther, one nearer.
    assert problem.error(worse, batch).tolist() == [0.75, 1.0, 0.75, 0.5]
    assert problem.error(torch.ones(4, 2), batch).tolist() == [0.5] * 4
    assert problem.error(torch.ones(1, 2), Batch({"y": torch.tensor([0])})).tolist() == [0.5]
    scores = problem.score(z, torch.zeros(4, 2))
    assert torch.allclose(scores, z.norm(dim=1))
    (gradient,) = torch.autograd.grad(scores.sum(), z)
    assert torch.allclose(gradient, torch.nn.functional.normalize(z, dim=1))


# what data are refused

GRAPHS = DataSpec(problem="graph", modality="graph", shape=(2, 3), classes=("a", "b"))
EDGE = [[1.0, 0, 1], [1, 1, 0]]
ALONE = [[1.0, 0, 0], [0, 0, 0]]
IMAGE = np.zeros((1, 1, 20, 20), np.uint8)
BOTH = DataSpec(modality="features", shape=(1,), classes=("a", "b"))


@pytest.mark.parametrize(
    ("problem", "given", "words"),
    [
        (Segmentation(), data(MAPS, x=[[[[0.0] * 4]]], y=[[[0, 1, 2, 3]]]), "out of 0..2"),
        (Segmentation(), data(MAPS, x=[[[[0.0] * 4]]], y=[[0, 1, 2, 2]]), "one a pixel"),
        (Segmentation(), data(MAPS, x=[[[[0.0] * 4]]]), "no label maps"),
        (Detection(), data(SCENE, x=IMAGE, boxes=[[[0.0, 5, 5, 5, 9]]]), "x0 < x1"),
        (Detection(), data(SCENE, x=IMAGE, boxes=[[[2.0, 5, 5, 6, 9]]]), "class 0..1"),
        (Detection(), data(SCENE, x=IMAGE, boxes=[[[1.0, 5, 5, 26, 9]]]), "within 20 x 20"),
        (Detection(), data(SCENE, x=IMAGE, boxes=[[0, 1]]), "floats"),
        (Sequence(), data(TOKENS, x=[[0, 1, 3]], y=[[0, 1, 1]]), "token of x is out of 0..2"),
        (Sequence(), data(TOKENS, x=[[0, 1, 2]], y=[[0, 1, 2]]), "token of y is out of 0..1"),
        (Sequence(), data(TOKENS, x=[[0, 1, 2]], y=[[-1, -1, -1]]), "no token that counts"),
        (Sequence(), data(TOKENS, x=[[0.0, 1, 2]], y=[[0, 1, 1]]), "both must be int64"),
        (Representation(), data(MAPS.model_copy(update={"shape": (2,)}), x=[[0.0, 1]], y=[0]), "how long"),
        (Representation(), data(EMBEDDED, x=[[0.0, 1]], y=[2]), r"0\.\.1"),
        (Graph(), data(GRAPHS, x=[[[1.0, 0, 1], [1, 0, 0]], EDGE], y=[0, 1]), "not symmetric"),
        (Graph(), data(GRAPHS.model_copy(update={"shape": (2, 2)}), x=[ALONE, EDGE], y=[0, 1]), "nodes, features"),
        (Classification(), data(BOTH, x=[[0.0], [1]], y=[[0.5, 0.4], [0, 1]]), "no probabilities that sum to 1"),
        (Classification(), data(BOTH, x=[[0.0], [1]], y=[[1.5, -0.5], [0, 1]]), r"\[1.5, -0.5\] of example 0"),
        (Classification(), data(BOTH, x=[[0.0], [1]], y=[[0.5, 0.5, 0.0]] * 2), "each of the 2 classes"),
        (Classification(), data(BOTH, x=[[0.0], [1]], y=[0.0, 1.0]), "whole numbers"),
    ],
)
def test_wrong_data_are_refused(problem: Any, given: Data, words: str) -> None:
    with pytest.raises(BadData, match=words):
        problem.check(given)


def test_right_graphs_are_taken() -> None:
    Graph().check(data(GRAPHS, x=[ALONE, EDGE], y=[0, 1]))


def test_training_labels_may_be_probabilities_and_others_not() -> None:
    soft = data(BOTH, x=[[0.0], [1]], y=[[0.7, 0.3], [0.2, 0.8]])
    hard = data(BOTH, x=[[0.0], [1]], y=[0, 1]).splits["train"]
    Classification().check(soft.replace(splits={"train": soft.train, "test": hard}))
    sure = soft.train.replace(y=np.array([[1.0, 0], [1, 0]]))
    with pytest.raises(BadData, match="one class only"):
        Classification().check(soft.replace(splits={"train": sure, "test": hard}))
    with pytest.raises(BadData, match="labels of split 'test' are"):
        Classification().check(soft.replace(splits={"train": hard, "test": soft.train}))
    assert labels(soft.train).tolist() == [0, 1]
    assert labels(hard).tolist() == [0, 1]
