"""What stands in the place of removed pixels. Each takes images and `keep` (N, *map shape), 1 to keep."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from assay.plugins.attribute._maps import per_channel
from assay.plugins.contract import DataSpec, NotAuditable


def compose(x: Tensor, keep: Tensor, fill: Tensor) -> Tensor:
    """x where `keep` is 1, `fill` where it is 0, a mixture between."""
    share = keep.to(x.dtype).unsqueeze(1) if keep.ndim == x.ndim - 1 else keep.to(x.dtype)
    return torch.lerp(fill.expand_as(x), x, share)


def zero_fill(x: Tensor, spec: DataSpec) -> Tensor:
    """Pixel value 0 in the model's units, 0 of features. Broadcasts with `x`."""
    return per_channel(spec.blank, x)


def mean_fill(x: Tensor) -> Tensor:
    """Each image's own mean colour, or each example's mean value. Broadcasts with `x`."""
    return x.mean(dim=tuple(range(2, x.ndim)) or 1, keepdim=True)


def blur_fill(x: Tensor, sigma: float) -> Tensor:
    """The images under a Gaussian of `sigma` pixels, cut off at 3 sigma; border pixels are repeated outwards.

    Raises NotAuditable where the inputs are not images.
    """
    if x.ndim != 4:
        raise NotAuditable(f"blurring is for images, an example here has shape {tuple(x.shape[1:])}")
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    planes = F.pad(x.flatten(0, 1)[:, None], (reach, reach, reach, reach), mode="replicate")
    planes = F.conv2d(planes, kernel.view(1, 1, 1, -1))
    return F.conv2d(planes, kernel.view(1, 1, -1, 1)).view(x.shape)


def fill_of(name: str, x: Tensor, spec: DataSpec, sigma: float) -> Tensor:
    """The fill called `zero`, `mean` or `blur`. Broadcasts with `x`."""
    if name == "blur":
        return blur_fill(x, sigma)
    return zero_fill(x, spec) if name == "zero" else mean_fill(x)
