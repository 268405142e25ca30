"""Worse images to restore."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from assay.plugins.contract import BadInput, Card, Context, Data, Field, Record, Split, Transform
from assay.plugins.prepare.transform._common import draw_seed, model_units, split_rng

CHUNK = 1024


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Images (N, C, H, W) convolved with a normalised Gaussian of `sigma` pixels, cut off after four of them,
    the images mirrored at their edges (the edge pixel not repeated)."""
    for axis in (2, 3):
        radius = min(int(4 * sigma + 0.5), x.shape[axis] - 1)
        at = torch.arange(-radius, radius + 1, dtype=x.dtype)
        weights = torch.exp(-0.5 * (at / sigma) ** 2)
        kernel = (weights / weights.sum()).view(1, 1, -1)
        rows = x.movedim(axis, -1)
        flat = F.pad(rows.reshape(-1, 1, rows.shape[-1]), (radius, radius), mode="reflect")
        x = F.conv1d(flat, kernel).reshape(rows.shape).movedim(-1, axis)
    return x


def shrink(x: Tensor, factor: int) -> Tensor:
    """Images (N, C, H, W) made `factor` times smaller and then as large as before, both by bicubic interpolation,
    the smaller ones antialiased."""
    _, _, height, width = x.shape
    small = F.interpolate(x, (height // factor, width // factor), mode="bicubic", antialias=True)
    return F.interpolate(small, (height, width), mode="bicubic")


class Degrade(Transform):
    """Makes images worse and keeps the clean ones as what is to be predicted.

    Noise is drawn once for each image and is not cut off at the pixels' bounds. Two of these in a row degrade
    twice; the target stays the first clean image.
    """

    card = Card(title="Degraded images with their clean originals", modality=("image",), makes="restoration")
    kind: Literal["noise", "blur", "shrink"] = Field(
        "noise",
        description="noise: normal, added to each pixel; blur: a Gaussian; shrink: fewer pixels, enlarged again",
    )
    sigma: float = Field(0.1, gt=0, description="the noise's standard deviation in pixel units (1: black to white)")
    radius: float = Field(1.0, gt=0, description="the blur's standard deviation in pixels")
    factor: int = Field(2, ge=2, description="how many times smaller `shrink` makes each side; must divide both")

    def fit(self, data: Data, ctx: Context) -> Record:
        """The seed of the draws. Raises BadInput where the examples are no images, or cannot be shrunk so."""
        shape = data.spec.shape
        if len(shape) != 3:
            raise BadInput(f"transform/degrade needs images (C, H, W), the examples have shape {list(shape)}")
        if self.kind == "shrink" and (shape[1] % self.factor or shape[2] % self.factor):
            raise BadInput(f"transform/degrade: factor {self.factor} does not divide images of {shape[1]} x {shape[2]}")
        return Record({"seed": draw_seed(ctx)})

    def apply(self, data: Data, record: Record) -> Data:
        """Degraded float32 x and clean y of every split; labels are dropped."""
        scale = torch.tensor(data.spec.scale).view(-1, 1, 1)
        restored = data.spec.problem == "restoration"

        def change(name: str, split: Split) -> Split:
            x = model_units(split.fields["x"])
            rng = split_rng(record.values["seed"], name)
            done = np.empty_like(x)
            for start in range(0, len(x), CHUNK):
                part = torch.from_numpy(x[start : start + CHUNK])
                done[start : start + CHUNK] = self._worse(part, scale, rng).numpy()
            return split.replace(x=done, y=split.fields["y"] if restored else x)

        spec = data.spec.model_copy(update={"problem": "restoration", "classes": (), "outputs": 0})
        return data.map(change).replace(spec=spec)

    def _worse(self, x: Tensor, scale: Tensor, rng: np.random.Generator) -> Tensor:
        if self.kind == "blur":
            return gaussian_blur(x, self.radius)
        if self.kind == "shrink":
            return shrink(x, self.factor)
        return x + self.sigma * scale * torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
