"""Drawn shapes with their label maps, for segmentation."""

from __future__ import annotations

import numpy as np

from assay.plugins.contract import Card, Context, Data, DataSpec, Field, Source
from assay.plugins.prepare.source._drawn import DRAW, KINDS, ground, paint, place, to_bytes, two_splits


def scene(rng: np.random.Generator, size: int, most: int, noise: float) -> dict[str, np.ndarray]:
    """One image of up to `most` shapes, later ones before earlier ones: x (1, size, size), y (size, size) of
    0 (ground) and 1 + the shape's kind, mask (size, size) of every shape's pixels."""
    image, y = ground(rng, size, noise), np.zeros((size, size), dtype=np.int64)
    for _ in range(rng.integers(1, most + 1)):
        kind = int(rng.integers(len(KINDS)))
        inside = DRAW[KINDS[kind]](size, *place(rng, size, 0.12, 0.25))
        paint(image, inside, rng, noise)
        y[inside] = 1 + kind
    return {"x": to_bytes(image)[None], "y": y, "mask": y > 0}


class Shapes(Source):
    """Bright discs, rectangles and triangles on dark, noisy ground; each pixel's class is its label, and
    `mask` holds the pixels of every shape. Drawn from fixed seeds: the same each time."""

    card = Card(title="Drawn shapes with label maps", makes="segmentation", modality=("image",))
    size: int = Field(32, ge=8, le=512, multiple_of=4, description="height and width in pixels")
    most: int = Field(3, ge=1, le=32, description="most shapes in an image")
    noise: float = Field(0.1, ge=0, le=1, description="deviation of the pixels' noise; 1 is the whole range")
    train: int = Field(400, ge=1, le=1_000_000, description="training images")
    test: int = Field(100, ge=1, le=1_000_000, description="test images")

    def load(self, ctx: Context) -> Data:
        """uint8 images (N, 1, size, size), int64 label maps and boolean masks (N, size, size)."""
        spec = DataSpec(problem="segmentation", shape=(1, self.size, self.size), classes=("ground", *KINDS))
        splits = two_splits(self.train, self.test, lambda rng: scene(rng, self.size, self.most, self.noise))
        return Data(spec, splits, provenance={"source": "drawn"})
