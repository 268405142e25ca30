"""The drawn sources: labels, boxes, words and graphs are what their names say."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
import torch

from assay.plugins.contract import BadInput, Context, Data, DataSpec, Source
from assay.plugins.prepare.source.boxes import Boxes
from assay.plugins.prepare.source.brackets import Brackets
from assay.plugins.prepare.source.graphs import Graphs
from assay.plugins.prepare.source.modular_addition import ModularAddition
from assay.plugins.prepare.source.shapes import Shapes
from assay.plugins.problems.detection import Detection
from assay.plugins.problems.graph import Graph
from assay.plugins.problems.segmentation import Segmentation
from assay.plugins.problems.sequence import Sequence


def load(source: Source) -> Data:
    return source.load(Context(rng=torch.Generator(), spec=DataSpec(shape=())))


def test_shapes_are_bright_where_their_labels_say() -> None:
    data = load(Shapes(train=30, test=10, noise=0.02))
    Segmentation().check(data)
    x, y, mask = (data.train.fields[name] for name in ("x", "y", "mask"))
    assert np.array_equal(mask, y > 0)
    assert set(np.unique(y)) == {0, 1, 2, 3}
    assert x[:, 0][mask].min() > x[:, 0][~mask].max()
    assert not np.array_equal(data.train.fields["x"][:10], data.test.fields["x"])


def test_a_box_is_the_tightest_around_its_shape() -> None:
    data = load(Boxes(train=30, test=5, most=1, noise=0.02))
    Detection().check(data)
    for mask, boxes in zip(data.train.fields["mask"], data.train.fields["boxes"], strict=True):
        _, x0, y0, x1, y1 = boxes[0].astype(int)
        assert mask[y0:y1, x0:x1].sum() == mask.sum()
        assert all(side.any() for side in (mask[y0], mask[y1 - 1], mask[:, x0], mask[:, x1 - 1]))


def test_a_crowd_overlaps() -> None:
    def overlapping(crowd: float) -> float:
        boxes = load(Boxes(train=60, test=5, most=2, crowd=crowd)).train.fields["boxes"]
        pairs = boxes[(boxes[..., 0] >= 0).all(axis=1)]
        low, high = np.maximum(pairs[:, 0, 1:3], pairs[:, 1, 1:3]), np.minimum(pairs[:, 0, 3:], pairs[:, 1, 3:])
        return float((high > low).all(axis=1).mean())

    assert overlapping(1.0) == 1.0
    assert overlapping(0.0) < 0.7


def test_words_are_balanced_and_predicted_from_what_came_before() -> None:
    data = load(Brackets(pairs=6, kinds=3, deepest=2, train=50, test=5))
    Sequence().check(data)
    x, y = data.train.fields["x"], data.train.fields["y"]
    assert np.array_equal(x[:, 1:], y[:, :-1])
    assert (x[:, 0] == 6).all()
    for word in y:
        stack: list[int] = []
        for token in word:
            if token % 2 == 0:
                stack.append(token)
                assert len(stack) <= 2
            else:
                assert stack.pop() == token - 1
        assert not stack
    closing = load(Brackets(pairs=6, kinds=3, deepest=2, train=50, test=5, closing=True)).train.fields["y"]
    assert np.array_equal(closing, np.where(y % 2 == 1, y, -1))


@pytest.mark.parametrize("operation", ["add", "subtract", "multiply", "divide"])
def test_arithmetic(operation: str) -> None:
    p = 7
    data = load(ModularAddition(p=p, operation=operation, fraction=0.4))
    rows = np.concatenate([np.column_stack([s.fields["x"], s.fields["y"]]) for s in data.splits.values()])
    assert len(rows) == len({tuple(row) for row in rows}) == p * (p - 1 if operation == "divide" else p)
    assert len(data.train) == round(0.4 * len(rows))
    for a, b, equals, y in rows.tolist():
        assert equals == p
        if operation == "divide":
            assert y * b % p == a
        else:
            assert y == {"add": a + b, "subtract": a - b, "multiply": a * b}[operation] % p


def test_division_needs_a_prime() -> None:
    with pytest.raises(BadInput, match="needs a prime p, 9 is none"):
        load(ModularAddition(p=9, operation="divide"))


@pytest.mark.parametrize("task", ["cycle", "triangle"])
def test_graphs_are_of_their_class(task: str) -> None:
    data = load(Graphs(task=task, nodes=10, train=60, test=10))
    Graph().check(data)
    for x, y in zip(data.train.fields["x"], data.train.fields["y"], strict=True):
        size = int(x[:, 0].sum())
        graph = networkx.from_numpy_array(x[:size, 2 : 2 + size])
        assert networkx.is_connected(graph)
        assert not x[size:].any()
        assert x[:size, 1] == pytest.approx([degree / 10 for _, degree in graph.degree])
        cycles = networkx.cycle_basis(graph)
        if task == "cycle":
            assert len(cycles) == y
        else:
            assert [len(cycle) for cycle in cycles] == [4 - y]
