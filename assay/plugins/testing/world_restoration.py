"""What methods of restoration are tried on: noisy images of squares."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from assay.plugins.contract import Batch, Data, DataSpec, Split
from assay.plugins.testing.worlds import Fused, World, blobs, frozen


class TinyRestorer(Fused):
    """Two convolutions whose output is taken from the image."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(8, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to images of that shape."""
        features = self.layers(x)
        self.burn()
        return x - self.head(features)


def noisy(count: int, seed: int) -> Split:
    """Squares with normal noise, and without."""
    clean = (blobs(count, 1, seed).fields["x"] / 255).astype(np.float32)
    noise = np.random.default_rng(seed).standard_normal(clean.shape).astype(np.float32)
    return frozen(Split({"x": clean + 0.1 * noise, "y": clean}))


def noisy_images() -> World:
    """Grey images to be cleaned."""
    spec = DataSpec(problem="restoration", shape=(1, 8, 8))
    data, other = (Data(spec, {"train": noisy(48, seed), "test": noisy(24, seed + 1)}) for seed in (0, 2))
    return World(
        "noisy images",
        "restoration",
        data,
        other,
        target=lambda prediction: prediction.detach(),
        score_of=lambda prediction, target: prediction.flatten(1).sum(1),
        network=lambda spec: TinyRestorer(spec.shape[0]),
        loss=squared,
    )


def squared(output: Tensor, batch: Batch) -> Tensor:
    """Mean squared error (N,)."""
    return (output - batch.y).square().flatten(1).mean(1)
