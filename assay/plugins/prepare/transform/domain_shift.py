"""A second, unlabelled domain: a share of the training images, shifted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.ndimage import rotate

from assay.plugins.contract import BadData, Card, Context, Data, DataSpec, Field, Record, Split, Transform
from assay.plugins.prepare.transform._common import draw_seed, split_rng

Kind = Literal["invert", "rotate", "noise"]


def bounds(spec: DataSpec, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowest and highest pixel and the length of one pixel unit, each (C, 1, 1), in the units of the array."""

    def per_channel(values: Sequence[float]) -> np.ndarray:
        return np.broadcast_to(np.asarray(values, np.float32), spec.shape[0]).reshape(-1, 1, 1)

    if dtype == np.uint8:
        return per_channel([0.0]), per_channel([255.0]), per_channel([255.0])
    return per_channel(spec.low), per_channel(spec.high), per_channel(spec.scale)


def shifted(
    x: np.ndarray, spec: DataSpec, kind: Kind, angle: float, sigma: float, rng: np.random.Generator
) -> np.ndarray:
    """Images (N, C, H, W) of the other domain, of the same type and within the same bounds.

    invert: the negative; rotate: by `angle` degrees counterclockwise, bilinear, outside the darkest value;
    noise: Gaussian of `sigma` pixel units added to each pixel.
    """
    low, high, unit = bounds(spec, x.dtype)
    values: np.ndarray = x.astype(np.float32)
    if kind == "invert":
        values = low + high - values
    elif kind == "rotate":
        values = low + rotate(values - low, angle, axes=(3, 2), reshape=False, order=1)
    else:
        values = values + unit * sigma * rng.standard_normal(x.shape, dtype=np.float32)
    values = values.clip(low, high)
    return values.round().astype(x.dtype) if x.dtype == np.uint8 else values.astype(x.dtype)


class DomainShift(Transform):
    """Makes a random share of the training images a target domain: shifted, and without labels.

    Adds to the training split `group` (0 source, 1 target) and `labelled` (false in the target domain); the
    target's labels become 0, so that nothing can learn from them. The test split is the target domain too,
    with its labels, so that evaluation and attribution are about the domain that the model is meant for;
    for the source's accuracy evaluate on a data set without this transform. Other splits stay as they are.
    """

    card = Card(
        title="A shifted, unlabelled target domain",
        problems=("classification",),
        modality=("image",),
        gives=("group", "labelled"),
    )
    kind: Kind = Field("rotate", description="invert: the negative; rotate: by `angle`; noise: added to each pixel")
    share: float = Field(0.5, gt=0, lt=1, description="share of the training images that become the target domain")
    angle: float = Field(45.0, ge=-180, le=180, description="rotation in degrees, counterclockwise")
    sigma: float = Field(
        0.5, gt=0, description="the noise's standard deviation in pixel units (pixels run from 0 to 1)"
    )
    test: Literal["target", "source"] = Field("target", description="the domain of the test split")

    def fit(self, data: Data, ctx: Context) -> Record:
        """The seed of the draws. Raises BadData where the examples are no images or too few."""
        if len(data.spec.shape) != 3:
            raise BadData(f"transform/domain_shift needs images (C, H, W), the examples have shape {data.spec.shape}")
        if not 0 < round(self.share * len(data.train)) < len(data.train):
            raise BadData(
                f"transform/domain_shift: share {self.share} of {len(data.train)} examples leaves a domain empty"
            )
        return Record({"seed": draw_seed(ctx)})

    def apply(self, data: Data, record: Record) -> Data:
        """The data with both domains; a split's draws depend on the seed and its name alone."""

        def change(name: str, split: Split) -> Split:
            rng = split_rng(record.values["seed"], name)
            x = np.array(split.fields["x"])
            target = np.zeros(len(x), dtype=bool)
            if name == "train":
                target[rng.permutation(len(x))[: round(self.share * len(x))]] = True
            elif name == "test":
                target[:] = self.test == "target"
            x[target] = shifted(x[target], data.spec, self.kind, self.angle, self.sigma, rng)
            fields: dict[str, np.ndarray] = {"x": x, "group": target.astype(np.int64)}
            if name == "train":
                fields |= {"labelled": ~target, "y": np.where(target, 0, split.fields["y"])}
            return split.replace(**fields)

        return data.replace(splits={n: change(n, s) if n in ("train", "test") else s for n, s in data.splits.items()})
