"""Zero mean and unit deviation per channel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
from pydantic import model_validator

from assay.plugins.contract import BadInput, Card, Context, Data, Field, Record, Split, Transform

CHUNK = 1024


def chunks(x: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """`x` in model units (uint8 as [0, 1]), a float32 copy of some examples at a time."""
    for start in range(0, len(x), CHUNK):
        at = slice(start, start + CHUNK)
        part = np.asarray(x[at])
        yield at, part.astype(np.float32) / np.float32(255) if part.dtype == np.uint8 else part.astype(np.float32)


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and (population) standard deviation of each channel, axis 1, in float64."""
    axes = (0, *range(2, x.ndim))
    count = x.size // x.shape[1]
    mean = sum(part.sum(axis=axes, dtype=np.float64) for _, part in chunks(x)) / count
    centre = np.reshape(mean, (-1, *[1] * (x.ndim - 2)))
    # Deviations from the mean, not a difference of squares: nothing cancels where the mean is large.
    variance = sum(((part - centre) ** 2).sum(axis=axes) for _, part in chunks(x)) / count
    return np.asarray(mean), np.sqrt(np.asarray(variance))


class Normalize(Transform):
    """Subtracts each channel's mean over the training split and divides by its standard deviation, or by the `mean`
    and `std` that are given: those that a model of your own was trained with.

    A channel is the first axis of an example: one of an image's channels, or one feature. A constant
    channel is only centred. Pixel bounds and the pixel unit in the description change along.
    """

    card = Card(title="Standardisation per channel", modality=("image", "features"), gives=("normalised",), serves=True)
    mean: tuple[float, ...] = Field(
        (), description="one a channel, of pixels in [0, 1]; the training split's where empty"
    )
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field((), description="one a channel, given together with `mean`")

    @model_validator(mode="after")
    def _together(self) -> Normalize:
        if len(self.mean) != len(self.std):
            raise ValueError(f"`mean` has {len(self.mean)} values, `std` {len(self.std)}: give one of each a channel")
        return self

    def fit(self, data: Data, ctx: Context) -> Record:
        """Mean and deviation of each channel over the training split, in model units (uint8 as [0, 1]), or those
        given. Raises BadInput where their number is not that of the channels."""
        channels = data.spec.shape[0]
        if self.mean and len(self.mean) != channels:
            raise BadInput(f"normalize: mean and std have {len(self.mean)} values, the examples {channels} channels")
        if self.mean:
            mean, deviation = np.array(self.mean), np.array(self.std)
        else:
            mean, deviation = moments(data.train.fields["x"])
        deviation[deviation == 0] = 1.0
        return Record(tensors={"mean": torch.from_numpy(mean), "deviation": torch.from_numpy(deviation)})

    def apply(self, data: Data, record: Record) -> Data:
        """float32 x in every split, and the description in its units."""
        mean, deviation = (record.tensors[name].double().cpu().numpy() for name in ("mean", "deviation"))

        def normal(x: np.ndarray) -> np.ndarray:
            shape = (-1, *[1] * (x.ndim - 2))
            m, d = (v.astype(np.float32).reshape(shape) for v in (mean, deviation))
            done = np.empty(x.shape, dtype=np.float32)
            for at, part in chunks(x):
                done[at] = (part - m) / d
            return done

        images = ("x", "y") if data.spec.problem == "restoration" else ("x",)

        def change(name: str, split: Split) -> Split:
            return split.replace(**{key: normal(split.fields[key]) for key in images if key in split.fields})

        def bounds(values: tuple[float, ...], centre: np.ndarray | float) -> tuple[float, ...]:
            return tuple(float(v) for v in (np.asarray(values) - centre) / deviation)

        spec = data.spec.model_copy(
            update={
                "low": bounds(data.spec.low, mean),
                "high": bounds(data.spec.high, mean),
                "scale": bounds(data.spec.scale, 0.0),
            }
        )
        return data.map(change).replace(spec=spec)
