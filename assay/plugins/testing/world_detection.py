"""What methods of detection are tried on: bright squares and their boxes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import Batch, Data, DataSpec, Split
from assay.plugins.testing.worlds import Fused, World, frozen

SIDE, CELL = 16, 4


class TinyDetector(Fused):
    """Two convolutions to cells of four pixels; each has the raw outputs of a grid detector: four logarithms
    of distances in cells, then the classes' logits."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Conv2d(channels, 16, 3, 2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            nn.Sequential(nn.Conv2d(16, 16, 3, 2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        )
        self.head = nn.Conv2d(16, 4 + classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, 16, 16) to detections (N, 16, 6)."""
        features = self.layers(x)
        self.burn()
        raw = self.head(features).flatten(2).transpose(1, 2)
        at = CELL * (torch.arange(SIDE // CELL, device=x.device) + 0.5)
        centres = torch.stack(torch.meshgrid(at, at, indexing="xy"), dim=-1).reshape(1, -1, 2)
        far = CELL * raw[..., :4].clamp(max=4).exp()
        score, kind = raw[..., 4:].sigmoid().max(dim=2, keepdim=True)
        return torch.cat([kind.to(raw), score, centres - far[..., :2], centres + far[..., 2:]], dim=2)


def scenes(count: int, seed: int) -> Split:
    """Noisy images of 16 x 16 with one square, grey or bright, and room for a second box."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 50, (count, 1, SIDE, SIDE)).astype(np.uint8)
    mask = np.zeros((count, SIDE, SIDE), dtype=bool)
    boxes = np.full((count, 2, 5), -1.0, dtype=np.float32)
    for i in range(count):
        kind, (top, left) = i % 2, rng.integers(0, SIDE - 6, 2)
        mask[i, top : top + 6, left : left + 6] = True
        x[i, 0, mask[i]] = (100, 190)[kind] + rng.integers(0, 40, 36)
        boxes[i, 0] = (kind, left, top, left + 6, top + 6)
    return frozen(Split({"x": x, "boxes": boxes, "mask": mask}))


def squares() -> World:
    """One channel of bytes, two classes of objects."""
    spec = DataSpec(problem="detection", shape=(1, SIDE, SIDE), classes=("grey", "bright"))
    data, other = (Data(spec, {"train": scenes(48, seed), "test": scenes(24, seed + 1)}) for seed in (0, 2))
    return World(
        "boxes",
        "detection",
        data,
        other,
        target=lambda prediction: prediction.detach(),
        score_of=lambda prediction, target: (prediction[..., 1] * target[..., 1]).sum(1),
        network=lambda spec: TinyDetector(spec.shape[0], spec.n_outputs),
        loss=nearest_cell,
    )


def nearest_cell(output: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of the scores, where the cell at the object's centre is one, plus its corners' distance (N,)."""
    box = batch.boxes[:, 0, 1:]
    column, row = ((box[:, :2] + box[:, 2:]) / 2 / CELL).long().T
    cell = row * (SIDE // CELL) + column
    target = F.one_hot(cell, output.shape[1]).to(output)
    found = output[torch.arange(len(output)), cell]
    scores = F.binary_cross_entropy(output[..., 1].clamp(1e-6, 1 - 1e-6), target, reduction="none").mean(1)
    return scores + (found[:, 2:] - box).abs().mean(1) / SIDE
