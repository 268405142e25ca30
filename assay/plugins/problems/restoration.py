"""An image from a worse one of the same size."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from assay.plugins.contract import BadData, Batch, Card, Data, DataSpec, Problem


class Restoration(Problem):
    """Images from worse ones: `x` is the degraded image, `y` the clean one in the same units, a prediction is
    an image (N, C, H, W); the error is the squared error, averaged over the pixels.

    Attributions explain the restored image as a whole: what each pixel adds to all of its pixels.
    """

    card = Card(title="Image restoration")
    fields: ClassVar[tuple[str, ...]] = ("x", "y")
    objective: ClassVar[str] = "mse"
    headline: ClassVar[str] = "fidelity/psnr"

    def check(self, data: Data) -> None:
        """Raises BadData: no images, clean images missing, not floats, or of another shape than the degraded."""
        if len(data.spec.shape) != 3:
            raise BadData(f"restoration needs images (C, H, W), the examples have shape {list(data.spec.shape)}")
        for name, split in data.splits.items():
            if "y" not in split.fields:
                raise BadData(f"split '{name}' has no clean images: field `y` is missing")
            y = split.fields["y"]
            if y.dtype.kind != "f":
                raise BadData(f"clean images of split '{name}' are {y.dtype}, they must be floats in the units of `x`")
            if tuple(y.shape[1:]) != tuple(data.spec.shape):
                raise BadData(
                    f"clean images of split '{name}' have shape {y.shape[1:]}, the degraded {data.spec.shape}"
                )

    def output(self, spec: DataSpec) -> tuple[int, ...]:
        """The image's shape."""
        return spec.shape

    def target(self, prediction: Tensor) -> Tensor:
        """The restored image (N, C, H, W)."""
        return prediction.detach()

    def score(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The sum of the restored pixels. To weight them with the target would show the image in every map: a
        network that changes little hands each pixel's weight on."""
        return prediction.flatten(1).sum(dim=1)

    def error(self, prediction: Tensor, batch: Batch) -> Tensor:
        """The squared error, averaged over the pixels."""
        return (prediction - batch.y.to(prediction)).square().flatten(1).mean(dim=1)

    def chance(self, data: Data) -> float:
        """The mean squared error of always answering the test split's mean clean image."""
        return float(np.asarray(data.test.fields["y"], dtype=np.float64).var(axis=0).mean())
