"""What methods of restoration are tried on: noisy images of squares."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from assay.plugins.contract import Batch, Data, DataSpec, Split
from assay.plugins.testing.worlds import Fused, World, blobs, frozen


class TinyRestorer(Fused):
    """Two convolutions that say what is wrong with an image, also within a diffusion: of its state at a time."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(8, channels, 3, padding=1)

    def forward(self, x: Tensor, state: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) to images of that shape; with a state and times (N,) to the residual."""
        mixed = x if state is None or t is None else (x + state) / 2 + 0.1 * t.view(-1, 1, 1, 1)
        features = self.layers(mixed)
        self.burn()
        wrong: Tensor = self.head(features)
        return x - wrong if state is None else wrong


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
