"""One class for each graph."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from assay.plugins.contract import BadData, Card, Data
from assay.plugins.problems.classification import Classification


class Graph(Classification):
    """One class for each graph: `x` (N, V, F + V) holds each node's F features, then its row of the symmetric
    adjacency matrix; a graph of fewer than V nodes is filled up with rows of zeros. `y` is the class's
    number, a prediction logits (N, classes)."""

    card = Card(title="Graph classification")
    fields: ClassVar[tuple[str, ...]] = ("x", "y")

    def check(self, data: Data) -> None:
        """Raises BadData: as classification's, and where x holds no features or no adjacency matrix that is
        symmetric, without negative weights, and without edges to what is no node."""
        super().check(data)
        shape = data.spec.shape
        if len(shape) != 2 or shape[1] <= shape[0]:
            raise BadData(f"a graph's x is (nodes, features + nodes), not {list(shape)}")
        for name, split in data.splits.items():
            x: np.ndarray = np.asarray(split.fields["x"])
            edges = x[:, :, shape[1] - shape[0] :]
            absent = np.all(x == 0, axis=2)
            wrong = (edges != edges.transpose(0, 2, 1)).any(axis=(1, 2)) | (edges < 0).any(axis=(1, 2))
            wrong |= (edges.any(axis=1) & absent).any(axis=1)
            if wrong.any():
                raise BadData(
                    f"split '{name}': the adjacency matrix of example {np.flatnonzero(wrong)[0]} is not symmetric, "
                    "has a negative weight, or an edge to a node without a row"
                )
