"""Small random graphs to classify."""

from __future__ import annotations

from typing import Literal

import numpy as np

from assay.plugins.contract import Card, Context, Data, DataSpec, Field, Source
from assay.plugins.prepare.source._drawn import two_splits

TASKS = {"cycle": ("tree", "cycle"), "triangle": ("square", "triangle")}


def tree(rng: np.random.Generator, size: int) -> np.ndarray:
    """Adjacency matrix (size, size) of a random recursive tree: each node joins an earlier one."""
    edges = np.zeros((size, size), dtype=np.float32)
    for node in range(1, size):
        other = rng.integers(node)
        edges[node, other] = edges[other, node] = 1
    return edges


def distances(edges: np.ndarray) -> np.ndarray:
    """Number of edges between each two nodes of a connected graph."""
    size = len(edges)
    far = np.where(np.eye(size, dtype=bool), 0, np.where(edges > 0, 1, size))
    for middle in range(size):
        far = np.minimum(far, far[:, middle : middle + 1] + far[middle])
    return np.asarray(far)


def graph(rng: np.random.Generator, size: int, task: str, label: int) -> np.ndarray:
    """A tree; for task `cycle` and label 1 with one more edge; for task `triangle` with one more edge that
    closes a cycle of four nodes (label 0) or of three (label 1)."""
    while True:
        edges = tree(rng, size)
        if task == "cycle" and label == 0:
            return edges
        far = distances(edges)
        ends = np.argwhere(far >= 2) if task == "cycle" else np.argwhere(far == 3 - label)
        if len(ends):
            a, b = ends[rng.integers(len(ends))]
            edges[a, b] = edges[b, a] = 1
            return edges


class Graphs(Source):
    """Random connected graphs of two classes by the toss of a coin. `cycle`: trees, and trees with one more edge;
    `triangle`: one cycle each, of four nodes or of three. A node's features are 1 and its number of
    neighbours over `nodes`; each graph has between half and all of `nodes`. Drawn from fixed seeds."""

    card = Card(title="Random graphs with and without cycles", makes="graph", modality=("graph",))
    task: Literal["cycle", "triangle"] = Field("cycle", description="what tells the classes apart")
    nodes: int = Field(12, ge=8, le=256, description="most nodes of a graph")
    train: int = Field(400, ge=2, le=1_000_000, description="training graphs")
    test: int = Field(100, ge=2, le=1_000_000, description="test graphs")

    def load(self, ctx: Context) -> Data:
        """float32 x (N, nodes, 2 + nodes) and int64 classes (N,)."""

        def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
            size, label = int(rng.integers(self.nodes // 2, self.nodes + 1)), int(rng.integers(2))
            edges = graph(rng, size, self.task, label)
            x = np.zeros((self.nodes, 2 + self.nodes), dtype=np.float32)
            x[:size, 0], x[:size, 1] = 1, edges.sum(axis=1) / self.nodes
            x[:size, 2 : 2 + size] = edges
            return {"x": x, "y": np.array(label)}

        spec = DataSpec(problem="graph", modality="graph", shape=(self.nodes, 2 + self.nodes), classes=TASKS[self.task])
        return Data(spec, two_splits(self.train, self.test, draw), provenance={"source": "drawn"})
