"""Integrated gradients."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins.attribute._maps import per_channel
from assay.plugins.attribute.saliency._common import signed, summed_gradients
from assay.plugins.contract import Attribution, Batch, Card, Context, Field, Saliency, Scorer


def integrated_gradients(
    model: nn.Module, batch: Batch, score: Scorer, ctx: Context, baseline: Tensor, points: Tensor, weights: Tensor
) -> Tensor:
    """(x - x') * integral over a in [0, 1] of the gradient at x' + a (x - x'), shape of `batch.x`.

    The integral is a sum over `points` (S,) with `weights` (S,) that add up to 1.
    """
    way = batch.x - baseline

    def on_path(example: Tensor, copy: Tensor) -> Tensor:
        step = points[copy].view(-1, *[1] * (way.ndim - 1))
        return torch.addcmul(baseline[example], way[example], step)

    return way * summed_gradients(model, batch, score, ctx, on_path, weights)


def quadrature(rule: str, steps: int) -> tuple[Tensor, Tensor]:
    """Points in [0, 1] and weights that sum to 1."""
    if rule == "midpoint":
        return (torch.arange(steps) + 0.5) / steps, torch.full((steps,), 1 / steps)
    points, weights = np.polynomial.legendre.leggauss(steps)
    return torch.from_numpy((points + 1) / 2).float(), torch.from_numpy(weights / 2).float()


class IntegratedGradients(Saliency):
    """Each pixel's share in the difference between the score at the input and at a baseline.

    Signed, summed over channels; a map's sum is that difference (completeness), up to the quadrature's
    error. The baseline is black (pixel value 0, in the units of the model; 0 of features) or the image's
    own mean colour.
    """

    card = Card(
        title="Axiomatic Attribution for Deep Networks",
        paper="arxiv:1703.01365",
        claim="Attributions add up to the difference of scores, also where the gradient itself has saturated.",
        verdict="reproduced",
        needs=("grad",),
    )
    steps: int = Field(32, ge=1, le=4096, description="points of the path at which gradients are taken")
    baseline: Literal["zero", "mean"] = Field("zero", description="the path's start: pixel value 0, or the mean colour")
    rule: Literal["midpoint", "gauss_legendre"] = Field("midpoint", description="where on the path the points lie")

    def attribute(self, model: nn.Module, batch: Batch, score: Scorer, ctx: Context) -> Attribution:
        """(N, H, W) for images, (N, *shape) otherwise. Raises NotAuditable where there are no gradients."""
        x = batch.x
        if self.baseline == "zero":
            start = per_channel(ctx.spec.blank, x).expand_as(x)
        else:
            start = x.mean(dim=tuple(range(2, x.ndim)) or 1, keepdim=True).expand_as(x)
        points, weights = (part.to(x.device) for part in quadrature(self.rule, self.steps))
        return Attribution(signed(integrated_gradients(model, batch, score, ctx, start, points, weights)))
