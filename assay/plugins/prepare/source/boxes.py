"""Drawn shapes with their boxes, for detection."""

from __future__ import annotations

import numpy as np

from assay.plugins.contract import Card, Context, Data, DataSpec, Field, Source
from assay.plugins.prepare.source._drawn import DRAW, KINDS, ground, paint, place, to_bytes, two_splits


def beside(rng: np.random.Generator, size: int, y: float, x: float, r: float) -> tuple[float, float, float]:
    """A place of the same size half a radius to one radius away, moved into the image."""
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.0) * r
    moved = np.clip((y + far * np.sin(angle), x + far * np.cos(angle)), r, size - 1 - r)
    return float(moved[0]), float(moved[1]), r


def scene(rng: np.random.Generator, size: int, most: int, crowd: float, noise: float) -> dict[str, np.ndarray]:
    """One image of 1 to `most` shapes: x (1, size, size), boxes (most, 5), mask (size, size). With probability
    `crowd` a shape is of the last one's kind and size, and covers a part of it."""
    image, mask = ground(rng, size, noise), np.zeros((size, size), dtype=bool)
    boxes = np.full((most, 5), -1.0, dtype=np.float32)
    kind, where = 0, (0.0, 0.0, 0.0)
    for i in range(rng.integers(1, most + 1)):
        if i and rng.random() < crowd:
            where = beside(rng, size, *where)
        else:
            kind, where = int(rng.integers(len(KINDS))), place(rng, size, 0.12, 0.22)
        inside = DRAW[KINDS[kind]](size, *where)
        paint(image, inside, rng, noise)
        mask |= inside
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        boxes[i] = (kind, columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return {"x": to_bytes(image)[None], "boxes": boxes, "mask": mask}


class Boxes(Source):
    """Bright discs, rectangles and triangles on dark, noisy ground, each with its class and box; `mask` holds
    the pixels of every shape. Drawn from fixed seeds: the same each time."""

    card = Card(title="Drawn shapes with boxes", makes="detection", modality=("image",))
    size: int = Field(32, ge=16, le=512, multiple_of=8, description="height and width in pixels")
    most: int = Field(3, ge=1, le=32, description="most shapes in an image")
    crowd: float = Field(0.0, ge=0, le=1, description="share of shapes after the first that cover a part of the last")
    noise: float = Field(0.1, ge=0, le=1, description="deviation of the pixels' noise; 1 is the whole range")
    train: int = Field(400, ge=1, le=1_000_000, description="training images")
    test: int = Field(100, ge=1, le=1_000_000, description="test images")

    def load(self, ctx: Context) -> Data:
        """uint8 images (N, 1, size, size), float32 boxes (N, most, 5), boolean masks (N, size, size)."""
        spec = DataSpec(problem="detection", shape=(1, self.size, self.size), classes=KINDS)
        splits = two_splits(self.train, self.test, lambda rng: scene(rng, self.size, self.most, self.crowd, self.noise))
        return Data(spec, splits, provenance={"source": "drawn"})
