"""What the measures of fidelity share: predictions and truth in pixel units, ratios in decibel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from assay.plugins.contract import Context, Subject
from assay.plugins.evaluate._common import pixels, predictions

SMALLEST = 1e-10
"""A mean squared error below this counts as this: 100 dB."""


def in_pixel_units(subject: Subject, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions, true values and inputs of the test split, float64 (N, ...), in units of one pixel (1: black to
    white). Raises NotAuditable as `predictions` does."""
    split = subject.data["main"].test
    predicted = predictions(subject, split, ctx)
    scale = pixels(subject.spec, predicted)[2]
    true = torch.from_numpy(np.asarray(split.fields["y"], dtype=np.float64))
    given = split.batch(slice(0, len(split))).x.double()
    return predicted / scale, true / scale, given / scale


def decibel(squared_error: Tensor) -> Tensor:
    """10 log10(1 / error) for mean squared errors in pixel units; at most 100."""
    return -10 * torch.log10(squared_error.clamp_min(SMALLEST))


def mean_square(difference: Tensor) -> Tensor:
    """The mean square of each example's values, (N, ...) to (N,)."""
    return difference.square().flatten(1).mean(dim=1)
