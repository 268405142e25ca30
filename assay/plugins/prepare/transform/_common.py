"""What the transforms share: draws that depend on a seed and a split's name only, images in the model's
units."""

from __future__ import annotations

import zlib

import numpy as np
import torch

from assay.plugins.contract import Context


def draw_seed(ctx: Context) -> int:
    """A seed from the method's generator, to be kept in the record."""
    return int(torch.randint(2**31, (1,), generator=ctx.rng))


def split_rng(seed: int, split: str) -> np.random.Generator:
    """The generator of a split's draws: the same whatever other splits are there."""
    return np.random.default_rng([seed, zlib.crc32(split.encode())])


def model_units(x: np.ndarray) -> np.ndarray:
    """Inputs as the model sees them, a float32 copy: bytes become [0, 1]."""
    return np.asarray(x, dtype=np.float32) / np.float32(255) if x.dtype == np.uint8 else np.array(x, dtype=np.float32)
