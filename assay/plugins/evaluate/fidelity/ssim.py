"""Structural similarity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from assay.plugins.contract import Card, Context, Evaluator, Field, Result, Subject
from assay.plugins.evaluate._common import mean_number
from assay.plugins.evaluate.fidelity._common import in_pixel_units

C1, C2 = 0.01**2, 0.03**2
"""The paper's K1 = 0.01 and K2 = 0.03, for values between 0 and 1."""


def gaussian_window(side: int, sigma: float) -> Tensor:
    """A normalised Gaussian (side, side)."""
    at = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    weights = torch.exp(-0.5 * (at / sigma) ** 2)
    square = weights[:, None] * weights[None, :]
    return square / square.sum()


def similarity(a: Tensor, b: Tensor, window: Tensor) -> Tensor:
    """SSIM of images a and b (N, C, H, W), values between 0 and 1, mean over channels and over every place
    where the window lies inside the image; (N,)."""
    kernel = window.to(a)[None, None]

    def local(values: Tensor) -> Tensor:
        return F.conv2d(values.flatten(0, 1)[:, None], kernel)

    mean_a, mean_b = local(a), local(b)
    var_a, var_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
    covariance = local(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * covariance + C2) / (var_a + var_b + C2)
    return (luminance * structure).reshape(len(a), -1).mean(dim=1)


class SSIM(Evaluator):
    """The structural similarity of each restored test image and the clean one.

    Images with a side shorter than the window get the largest odd window that fits.
    """

    card = Card(
        title="Image Quality Assessment: From Error Visibility to Structural Similarity",
        paper="doi:10.1109/TIP.2003.819861",
        claim="Of distortions with one mean squared error, those that people see less are more similar: a shift of "
        "brightness more than noise.",
        verdict="reproduced",
        problems=("restoration",),
        modality=("image",),
    )
    window: int = Field(11, ge=1, le=101, description="side of the Gaussian window in pixels")
    sigma: float = Field(1.5, gt=0, description="standard deviation of the window in pixels")

    def numbers(self) -> tuple[str, ...]:
        return ("ssim",)

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        predicted, true, _ = in_pixel_units(subject, ctx)
        low = torch.tensor(subject.spec.low, dtype=torch.float64) / torch.tensor(subject.spec.scale)
        dark = low.view(-1, 1, 1)
        shortest = min(predicted.shape[2:])
        side = min(self.window, shortest - (shortest + 1) % 2)
        each = similarity(predicted - dark, true - dark, gaussian_window(side, self.sigma))
        return Result(
            {
                "ssim": mean_number(
                    each.numpy(), "Structural similarity of a restored test image and the clean one; 1: equal, mean.", 1
                )
            }
        )
