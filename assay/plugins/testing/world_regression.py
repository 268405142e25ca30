"""What methods of regression are tried on: vectors and a smooth function of them."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from torch import Tensor, nn

from assay.plugins.contract import Batch, Data, DataSpec, Split
from assay.plugins.testing.worlds import Fused, World, frozen

WIDTH = 6


class TinyMLP(Fused):
    """Two layers with rectified units and a linear head."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            OrderedDict(first=nn.Linear(inputs, 16), act=nn.ReLU(), second=nn.Linear(16, 16), last=nn.ReLU())
        )
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (N, D) to values (N, outputs)."""
        features = self.layers(x)
        self.burn()
        out: Tensor = self.head(features)
        return out


def sample(count: int, seed: int) -> Split:
    """Standard normal vectors and two smooth functions of them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, WIDTH)).astype(np.float32)
    y = np.stack([np.sin(x[:, 0]) + x[:, 1] * x[:, 2], x[:, 3]], axis=1).astype(np.float32)
    return frozen(Split({"x": x, "y": y}))


def vectors() -> World:
    """Feature vectors with two values each."""
    spec = DataSpec(problem="regression", modality="features", shape=(WIDTH,), outputs=2, low=(-9.0,), high=(9.0,))
    data, other = (Data(spec, {"train": sample(48, seed), "test": sample(24, seed + 1)}) for seed in (0, 2))
    return World(
        "vectors",
        "regression",
        data,
        other,
        target=lambda prediction: prediction.detach(),
        score_of=lambda prediction, target: prediction.flatten(1).sum(1),
        network=lambda spec: TinyMLP(spec.shape[0], spec.n_outputs),
        loss=squared,
    )


def squared(output: Tensor, batch: Batch) -> Tensor:
    """Mean squared error (N,)."""
    return (output - batch.y).square().mean(1)
