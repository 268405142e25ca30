"""Persistence and Betti matching against the reduction of boundary matrices, and pictures worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.plugins._topology import NEVER, Filtration, Grid, betti_matching, image_barcode
from assay.plugins.contract import Context, Data, DataSpec, Split, Subject
from assay.plugins.evaluate.topology.betti_matching import BettiMatching, errors

RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])


def picture(*rows: str) -> np.ndarray:
    """`#` is foreground."""
    return np.array([[mark == "#" for mark in row] for row in rows])


def reduced(small: np.ndarray, large: np.ndarray) -> list[list[tuple[float, float]]]:
    """Intervals of positive length in dimensions 0 and 1 of the image of superlevel sets of `small` in those of
    `large`, by reducing the boundary matrix with rows in the order of `small`, columns in that of `large`."""
    grid = Grid(*small.shape)
    cells = [(v,) for v in range(small.size)] + [tuple(e) for e in grid.edges] + [tuple(s) for s in grid.squares]
    inside = [tuple(sorted(cell)) for cell in cells]
    faces = {
        cell: [f for f in inside if len(f) == len(cell) // 2 and set(f) < set(cell)] if len(cell) > 1 else []
        for cell in inside
    }

    def value(image: np.ndarray, cell: tuple[int, ...]) -> float:
        return float(min(image.ravel()[list(cell)]))

    row_order = sorted(inside, key=lambda c: (-value(small, c), len(c), c))
    place = {cell: i for i, cell in enumerate(row_order)}
    pivots: dict[int, set[int]] = {}
    found: list[list[tuple[float, float]]] = [[(float(small.max()), -np.inf)], []]
    for cell in sorted(inside, key=lambda c: (-value(large, c), len(c), c)):
        column = {place[f] for f in faces[cell]}
        while column and max(column) in pivots:
            column ^= pivots[max(column)]
        if column:
            made = row_order[max(column)]
            pivots[max(column)] = column
            birth, death = value(small, made), value(large, cell)
            if birth > death:
                found[len(made) - 1].append((birth, death))
    return [sorted(part) for part in found]


def intervals(small: Filtration, large: Filtration) -> list[list[tuple[float, float]]]:
    components, holes = image_barcode(small, large)
    first = [(small.values[v], -np.inf if e == NEVER else large.edge_values[e]) for v, e in components]
    second = [(small.edge_values[e], large.square_values[s]) for e, s in holes]
    return [sorted((float(a), float(b)) for a, b in part) for part in (first, second)]


@pytest.mark.parametrize("levels", [2, 4, 1000])
def test_barcodes_are_those_of_the_reduced_boundary_matrix(levels: int) -> None:
    rng = np.random.default_rng(levels)
    for _ in range(12):
        shape = tuple(rng.integers(2, 6, 2))
        small = rng.integers(0, levels, shape).astype(float)
        large = np.maximum(small, rng.integers(0, levels, shape))
        assert intervals(Filtration(small), Filtration(small)) == reduced(small, small)
        assert intervals(Filtration(small), Filtration(large)) == reduced(small, large)


def test_a_feature_is_matched_where_it_is() -> None:
    left, right = np.zeros((2, 3, 9))
    left[:, :3], right[:, 6:] = RING, RING
    for matching in betti_matching(Filtration(left), Filtration(right)):
        # The component that is there to the end is always matched; the other features of either ring are not.
        assert [a[1] for a, _ in matching.matched] in ([NEVER], [])
    assert errors(left, left) == ([0, 0], [0, 0])
    assert errors(left, right) == ([0, 2], [0, 0])


def test_errors_by_hand() -> None:
    ring = picture("####", "#..#", "####", "....")
    gap = picture("####", "#..#", "##.#", "....")
    filled = picture("####", "####", "####", "....")
    dot = picture("####", "#..#", "####", "....", "#...")
    plain = picture("####", "#..#", "####", "....", "....")
    empty = np.zeros((4, 4), dtype=bool)
    assert errors(ring, gap) == ([0, 1], [0, 1])
    assert errors(ring, filled) == ([0, 1], [0, 1])
    assert errors(dot, plain) == ([1, 0], [1, 0])
    assert errors(empty, ring) == ([1, 1], [1, 1])
    assert errors(empty, empty) == ([0, 0], [0, 0])
    # Two holes in one component; the prediction has both, but one elsewhere.
    true = picture("#######", "#.#.###", "#######")
    moved = picture("#######", "#.###.#", "#######")
    assert errors(moved, true) == ([0, 2], [0, 0])
    # Diagonal neighbours are apart: two components against one.
    assert errors(picture("#.", ".#"), picture("##", ".#")) == ([1, 0], [1, 0])


def test_the_evaluator_averages_over_images() -> None:
    ring, gap = picture("###", "#.#", "###"), picture("###", "#.#", "#.#")
    y = np.stack([ring, ring]).astype(np.int64)
    seen = torch.from_numpy(np.stack([ring, gap]).astype(np.float32))
    spec = DataSpec(problem="segmentation", shape=(1, 3, 3), classes=("ground", "ring"))
    split = Split({"x": np.zeros((2, 1, 3, 3), np.float32), "y": y})
    subject = Subject(
        torch.nn.Identity(),
        lambda batch: torch.stack([1 - seen, seen], dim=1)[batch.index],
        spec,
        {"main": Data(spec, {"test": split})},
    )
    found = BettiMatching().evaluate(subject, Context(rng=torch.Generator(), spec=spec)).numbers
    assert {name: number.value for name, number in found.items()} == {
        "error": 0.5,
        "components": 0.0,
        "holes": 0.5,
        "betti_number": 0.5,
    }
