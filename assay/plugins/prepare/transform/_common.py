"""What the transforms share: draws that depend on a seed and a split's name only, and within classes; images in the
model's units."""

from __future__ import annotations

import zlib

import numpy as np
import torch

from assay.plugins.contract import Context, Split


def draw_seed(ctx: Context) -> int:
    """A seed from the method's generator, to be kept in the record."""
    return int(torch.randint(2**31, (1,), generator=ctx.rng))


def split_rng(seed: int, split: str) -> np.random.Generator:
    """The generator of a split's draws: the same whatever other splits are there."""
    return np.random.default_rng([seed, zlib.crc32(split.encode())])


def model_units(x: np.ndarray) -> np.ndarray:
    """Inputs as the model sees them, a float32 copy: bytes become [0, 1]."""
    return np.asarray(x, dtype=np.float32) / np.float32(255) if x.dtype == np.uint8 else np.array(x, dtype=np.float32)


def labels_of(split: Split) -> np.ndarray | None:
    """The split's class labels (N,), or None where it has none."""
    y = split.fields.get("y")
    return np.asarray(y) if y is not None and y.ndim == 1 and y.dtype.kind in "iu" else None


def shares(counts: np.ndarray, most: int) -> np.ndarray:
    """How many of each class to keep, `most` in all and in proportion to `counts`, by largest remainder.

    Each class keeps at least one where `most` allows it.
    """
    floor = np.minimum(counts, 1) if most >= np.count_nonzero(counts) else np.zeros_like(counts)
    exact = counts * (most / counts.sum())
    kept = np.maximum(np.floor(exact).astype(np.int64), floor)
    while kept.sum() != most:
        step = 1 if kept.sum() < most else -1
        free = kept < counts if step > 0 else kept > floor
        kept[np.argmax(np.where(free, step * (exact - kept), -np.inf))] += step
    return kept


def pick(y: np.ndarray | None, n: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """`most` of `n` positions, drawn within the classes of `y` (or without, where None), in rising order."""
    order = rng.permutation(n)
    if y is None:
        return np.sort(order[:most])
    _, group = np.unique(y, return_inverse=True)
    kept = shares(np.bincount(group), most)
    chosen = [order[group[order] == g][:k] for g, k in enumerate(kept)]
    return np.sort(np.concatenate(chosen))
