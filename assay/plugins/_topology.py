"""Persistent homology of images by superlevel sets, and Betti matching, for the methods of several slots.

Pixels are the vertices of a cubical complex, joined to their four neighbours; an edge or a square of four
pixels is there as long as all of its pixels are. Going down from the highest value, components (dimension 0)
and holes (dimension 1) appear and vanish. A feature is a pair of cells, the one that makes it and the one that
ends it. Both dimensions are found by union-find: holes are the components of the squares and the outside,
joined across edges in the opposite order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

NEVER = -1
"""What ends the component that is there to the end."""

Feature = tuple[int, int]
"""The cells that make and end a feature: vertex and edge in dimension 0, edge and square in dimension 1."""


@dataclass(frozen=True)
class Grid:
    """The cells of images of one size, by the numbers of their pixels."""

    height: int
    width: int

    @cached_property
    def edges(self) -> np.ndarray:
        """The two pixels of each edge, (E, 2)."""
        at = np.arange(self.height * self.width).reshape(self.height, self.width)
        across = np.stack([at[:, :-1].ravel(), at[:, 1:].ravel()], axis=1)
        down = np.stack([at[:-1].ravel(), at[1:].ravel()], axis=1)
        return np.concatenate([across, down])

    @cached_property
    def squares(self) -> np.ndarray:
        """The four pixels of each square, (S, 4)."""
        at = np.arange(self.height * self.width).reshape(self.height, self.width)
        return np.stack([at[:-1, :-1], at[:-1, 1:], at[1:, :-1], at[1:, 1:]], axis=2).reshape(-1, 4)

    @cached_property
    def sides(self) -> np.ndarray:
        """The two squares on either side of each edge, (E, 2); S is the outside."""
        h, w = self.height, self.width
        framed = np.full((h + 1, w + 1), (h - 1) * (w - 1))
        framed[1:-1, 1:-1] = np.arange((h - 1) * (w - 1)).reshape(h - 1, w - 1)
        across = np.stack([framed[:-1, 1:-1].ravel(), framed[1:, 1:-1].ravel()], axis=1)
        down = np.stack([framed[1:-1, :-1].ravel(), framed[1:-1, 1:].ravel()], axis=1)
        return np.concatenate([across, down])


class Filtration:
    """An image (H, W) with its cells in the order in which they appear, ties in the order of their numbers."""

    def __init__(self, image: np.ndarray):
        self.grid = Grid(*image.shape)
        self.values = np.asarray(image, dtype=np.float64).ravel()
        self.edge_values = self.values[self.grid.edges].min(axis=1)
        self.edge_order = np.argsort(-self.edge_values, kind="stable")
        self.vertex_rank = ranks(self.values)
        self.square_values = self.values[self.grid.squares].min(axis=1)
        self.square_rank = np.append(ranks(self.square_values), len(self.grid.squares))

    @cached_property
    def barcode(self) -> tuple[list[Feature], list[Feature]]:
        """The features of each dimension that last, the component that never ends first."""
        return image_barcode(self, self)

    def pixels(self, dimension: int, feature: Feature) -> Feature:
        """The pixels whose values are those at which a feature appears and vanishes."""
        first, last = feature
        if dimension == 0:
            return first, NEVER if last == NEVER else self._lowest(self.grid.edges[last])
        return self._lowest(self.grid.edges[first]), self._lowest(self.grid.squares[last])

    def _lowest(self, pixels: np.ndarray) -> int:
        return int(pixels[self.values[pixels].argmin()])


def ranks(values: np.ndarray) -> np.ndarray:
    """Places from the highest value (0) down."""
    rank = np.empty(len(values), dtype=np.int64)
    rank[np.argsort(-values, kind="stable")] = np.arange(len(values))
    return rank


def merges(order: np.ndarray, ends: np.ndarray, age: np.ndarray) -> list[tuple[int, int]]:
    """Joins nodes along edges in the given order. For each edge that joins two components: the oldest node
    (of the least age) of the younger one, and the edge."""
    parent = list(range(len(age)))
    oldest = list(range(len(age)))
    ages, pairs = age.tolist(), ends.tolist()

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    found = []
    for edge in order.tolist():
        a, b = (root(node) for node in pairs[edge])
        if a == b:
            continue
        if ages[oldest[a]] > ages[oldest[b]]:
            a, b = b, a
        found.append((oldest[b], edge))
        parent[b] = a
    return found


def image_barcode(small: Filtration, large: Filtration) -> tuple[list[Feature], list[Feature]]:
    """Features of the image of `small` in `large`, whose values are nowhere lower: they appear with a cell in
    the order of `small` and vanish with one in that of `large`, later."""
    components = merges(large.edge_order, large.grid.edges, small.vertex_rank)
    holes = merges(small.edge_order[::-1], small.grid.sides, -large.square_rank)
    first = int(small.vertex_rank.argmin())
    return (
        [(first, NEVER), *((v, e) for v, e in components if small.values[v] > large.edge_values[e])],
        [(e, s) for s, e in holes if small.edge_values[e] > large.square_values[s]],
    )


@dataclass(frozen=True)
class Matching:
    """Features of two images in one dimension: pairs that are the same feature of both, and the rest."""

    matched: list[tuple[Feature, Feature]]
    first: list[Feature]
    second: list[Feature]


def betti_matching(a: Filtration, b: Filtration) -> tuple[Matching, Matching]:
    """The induced matching through the union of two images of one size, in dimensions 0 and 1.

    A feature of an image is that of the union which ends where its own image in the union ends; features of
    the two images that are the same one of the union are matched.
    """
    union = Filtration(np.maximum(a.values, b.values).reshape(a.grid.height, a.grid.width))
    found = []
    inner, other = image_barcode(a, union), image_barcode(b, union)
    for dimension in (0, 1):
        ends = {last for _, last in union.barcode[dimension]}
        first = _by_end(a.barcode[dimension], inner[dimension], ends)
        second = _by_end(b.barcode[dimension], other[dimension], ends)
        matched = [(feature, second[end]) for end, feature in first.items() if end in second]
        left, right = {x for x, _ in matched}, {y for _, y in matched}
        found.append(
            Matching(
                matched,
                [f for f in a.barcode[dimension] if f not in left],
                [f for f in b.barcode[dimension] if f not in right],
            )
        )
    return found[0], found[1]


def _by_end(own: list[Feature], image: list[Feature], ends: set[int]) -> dict[int, Feature]:
    """Features of an image by the cell that ends the union's feature they are matched with."""
    starts = {feature[0]: feature for feature in own}
    return {last: starts[first] for first, last in image if first in starts and last in ends}
