"""What the sources of drawn scenes share: shapes as masks, noisy ground, two splits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from assay.plugins.contract import Split

KINDS = ("disc", "rectangle", "triangle")


def disc(size: int, y: float, x: float, r: float) -> np.ndarray:
    """Pixels (size, size) within `r` of the centre."""
    rows, columns = np.mgrid[:size, :size]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 <= r * r)


def rectangle(size: int, y: float, x: float, r: float) -> np.ndarray:
    """Pixels of a square with half a side of 0.9 r around the centre."""
    rows, columns = np.mgrid[:size, :size]
    return np.asarray((abs(rows - y) <= 0.9 * r) & (abs(columns - x) <= 0.9 * r))


def triangle(size: int, y: float, x: float, r: float) -> np.ndarray:
    """Pixels of a triangle that stands on its base, of height and base 2 r."""
    rows, columns = np.mgrid[:size, :size]
    down = rows - (y - r)
    return np.asarray((down >= 0) & (down <= 2 * r) & (abs(columns - x) <= down / 2))


DRAW: dict[str, Callable[[int, float, float, float], np.ndarray]] = {
    "disc": disc,
    "rectangle": rectangle,
    "triangle": triangle,
}


def place(rng: np.random.Generator, size: int, low: float, high: float) -> tuple[float, float, float]:
    """Centre and radius of a shape that lies within the image, its radius in [low, high) of the side."""
    r = rng.uniform(low, high) * size
    y, x = rng.uniform(r, size - 1 - r, 2)
    return float(y), float(x), float(r)


def ground(rng: np.random.Generator, size: int, noise: float) -> np.ndarray:
    """A dark, noisy image (size, size) in [0, 1]."""
    return np.asarray(rng.uniform(0.0, 0.35) + noise * rng.standard_normal((size, size)))


def paint(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, noise: float) -> None:
    """Fills a mask with one bright grey value and noise, in place."""
    image[mask] = rng.uniform(0.55, 1.0) + noise * rng.standard_normal(int(mask.sum()))


def to_bytes(image: np.ndarray) -> np.ndarray:
    """[0, 1] as uint8."""
    return np.asarray((255 * image.clip(0, 1)).round().astype(np.uint8))


def two_splits(train: int, test: int, draw: Callable[[np.random.Generator], dict[str, np.ndarray]]) -> dict[str, Split]:
    """Splits of independent examples, each split from a seed of its own."""
    splits = {}
    for seed, (name, count) in enumerate((("train", train), ("test", test))):
        rng = np.random.default_rng(seed)
        rows = [draw(rng) for _ in range(count)]
        splits[name] = Split({field: np.stack([row[field] for row in rows]) for field in rows[0]})
    return splits
