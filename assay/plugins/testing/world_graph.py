"""What methods of graphs are tried on: rings and paths."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins.contract import Data, DataSpec, Split
from assay.plugins.testing.worlds import Fused, World, chosen, entropy, frozen, picked

NODES, FEATURES = 6, 2


class TinyGraph(Fused):
    """One round of messages, summed over the nodes."""

    def __init__(self, features: int, outputs: int):
        super().__init__()
        self.features = features
        self.layers = nn.Sequential(nn.Linear(features, 16), nn.ReLU())
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Graphs (N, V, F + V) to logits (N, outputs)."""
        own, edges = x[..., : self.features], x[..., self.features :]
        features = self.layers(own + torch.matmul(edges, own)).sum(1)
        self.burn()
        out: Tensor = self.head(features)
        return out


def sample(count: int, seed: int) -> Split:
    """Paths (0) and rings (1) of four to six nodes, with a feature that is 1 and one of noise."""
    rng = np.random.default_rng(seed)
    x = np.zeros((count, NODES, FEATURES + NODES), dtype=np.float32)
    y = np.arange(count, dtype=np.int64) % 2
    for graph, ring in zip(x, y, strict=True):
        size = int(rng.integers(4, NODES + 1))
        graph[:size, 0], graph[:size, 1] = 1, rng.standard_normal(size)
        for a, b in [(i, i + 1) for i in range(size - 1)] + [(0, size - 1)] * int(ring):
            graph[a, FEATURES + b] = graph[b, FEATURES + a] = 1
    return frozen(Split({"x": x, "y": y}))


def rings() -> World:
    """Two classes of graphs."""
    spec = DataSpec(problem="graph", modality="graph", shape=(NODES, FEATURES + NODES), classes=("path", "ring"))
    data, other = (Data(spec, {"train": sample(48, seed), "test": sample(24, seed + 1)}) for seed in (0, 2))
    return World(
        "graphs",
        "graph",
        data,
        other,
        chosen,
        picked,
        network=lambda spec: TinyGraph(spec.shape[1] - spec.shape[0], spec.n_outputs),
        loss=entropy,
    )
