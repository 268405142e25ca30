"""What methods of segmentation are tried on: bright squares on dark ground."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import Batch, Data, DataSpec, Split
from assay.plugins.testing.worlds import Fused, World, frozen


class TinyFull(Fused):
    """Two convolutions with normalisation and a head for every pixel."""

    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        )
        self.head = nn.Conv2d(16, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, outputs, H, W)."""
        features = self.layers(x)
        self.burn()
        out: Tensor = self.head(features)
        return out


def squares(count: int, seed: int) -> Split:
    """Noisy images of 8 x 8 with a grey and a bright square; the label says which a pixel belongs to."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 50, (count, 1, 8, 8)).astype(np.uint8)
    y = np.zeros((count, 8, 8), dtype=np.int64)
    for image, labels in zip(x, y, strict=True):
        for kind, value in ((1, 100), (2, 190)):
            top, left = rng.integers(0, 5, 2)
            image[0, top : top + 4, left : left + 4] = value + rng.integers(0, 40, (4, 4))
            labels[top : top + 4, left : left + 4] = kind
    return frozen(Split({"x": x, "y": y, "mask": y > 0}))


def maps() -> World:
    """One channel of bytes, three classes."""
    spec = DataSpec(problem="segmentation", shape=(1, 8, 8), classes=("ground", "grey", "bright"))
    data, other = (Data(spec, {"train": squares(48, seed), "test": squares(24, seed + 1)}) for seed in (0, 2))
    return World(
        "label maps",
        "segmentation",
        data,
        other,
        target=lambda prediction: prediction.argmax(1),
        score_of=picked_pixels,
        network=lambda spec: TinyFull(spec.shape[0], spec.n_outputs),
        loss=pixel_entropy,
    )


def picked_pixels(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean logit of the target's classes (N,)."""
    return torch.gather(prediction, 1, target[:, None]).flatten(1).mean(1)


def pixel_entropy(output: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy, mean over pixels (N,)."""
    return F.cross_entropy(output, batch.y, reduction="none").flatten(1).mean(1)
