"""What methods of generation are tried on: images for a network of a time, vectors for a generator with a critic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Data, DataSpec, Split
from assay.plugins.testing.worlds import Fused, World, blobs, frozen

WIDTH = 6


class TinyField(Fused):
    """Two convolutions; the time is added between them."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU())
        self.time = nn.Linear(1, 16)
        self.head = nn.Conv2d(16, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) and times (N,) to images of that shape."""
        times = x.new_zeros(len(x)) if t is None else t
        features = self.layers(x) + self.time(times[:, None])[:, :, None, None]
        self.burn()
        out: Tensor = self.head(features)
        return out


class TinyGAN(Fused):
    """A generator of vectors with a critic."""

    def __init__(self, values: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(values, 16), nn.ReLU())
        self.head = nn.Linear(16, values)
        self.critic = nn.Sequential(nn.Linear(values, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))

    def forward(self, x: Tensor) -> Tensor:
        """Noise (N, values) to vectors of that shape."""
        features = self.layers(x)
        self.burn()
        out: Tensor = self.head(features)
        return out


def images() -> World:
    """Grey images with labels, to be drawn anew."""
    spec = DataSpec(problem="generation", shape=(1, 8, 8), classes=("a", "b", "c"))
    data, other = (Data(spec, {"train": blobs(48, 1, seed), "test": blobs(24, 1, seed + 1)}) for seed in (0, 2))
    return generation("images to draw", data, other, lambda spec: TinyField(spec.shape[0]))


def vectors() -> World:
    """Vectors around two centres, without labels."""

    def sample(count: int, seed: int) -> Split:
        rng = np.random.default_rng(seed)
        centre = np.where(rng.random((count, 1)) < 0.5, -1.0, 1.0)
        return frozen(Split({"x": (centre + 0.3 * rng.standard_normal((count, WIDTH))).astype(np.float32)}))

    spec = DataSpec(problem="generation", modality="features", shape=(WIDTH,))
    data, other = (Data(spec, {"train": sample(48, seed), "test": sample(24, seed + 1)}) for seed in (0, 2))
    return generation("vectors to draw", data, other, lambda spec: TinyGAN(spec.shape[0]))


def generation(name: str, data: Data, other: Data, network: Callable[[DataSpec], nn.Module]) -> World:
    """A world whose network is trained to give its input back."""
    return World(
        name,
        "generation",
        data,
        other,
        target=lambda prediction: prediction.detach(),
        score_of=lambda prediction, target: prediction.flatten(1).sum(1),
        network=network,
        loss=repeated,
    )


def repeated(output: Tensor, batch: Batch) -> Tensor:
    """Mean squared difference to the example (N,)."""
    return torch.square(output - batch.x).flatten(1).mean(1)
