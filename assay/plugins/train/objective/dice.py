"""The soft Dice loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from assay.plugins.contract import Batch, Card, Field, Objective


class Dice(Objective):
    """1 - 2 sum p g / (sum p^2 + sum g^2) over an image's pixels, averaged over classes.

    p are the class's probabilities, g is 1 where the label is the class. Where neither has any of a class,
    `smooth`, added to both sides of the fraction, makes its loss small.
    """

    card = Card(
        title="V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation",
        paper="arxiv:1606.04797",
        problems=("segmentation",),
    )
    smooth: float = Field(1.0, ge=1e-6, le=1e6, description="added to both sides of the fraction")

    def score(self, output: Tensor, batch: Batch) -> Tensor:
        """Loss of each image (N,) for logits (N, classes, H, W) and labels (N, H, W)."""
        p = output.softmax(dim=1).flatten(2)
        g = F.one_hot(batch.y.flatten(1), output.shape[1]).transpose(1, 2).to(p)
        both, sizes = (p * g).sum(dim=2), p.square().sum(dim=2) + g.square().sum(dim=2)
        return 1 - ((2 * both + self.smooth) / (sizes + self.smooth)).mean(dim=1)
