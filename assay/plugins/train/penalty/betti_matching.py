"""Betti matching loss."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins._topology import NEVER, Filtration, betti_matching
from assay.plugins.contract import Batch, Card, Context, Field, Penalty


def critical(probability: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where and at what value the features of a probability map (H, W) should begin and end, given the true
    foreground: for each the pixels (F, 2), -1 for one that never ends, and the values (F, 2) of its partner;
    NaN for one without, which should not last."""
    first, second = Filtration(probability), Filtration(true)
    pixels: list[tuple[int, int]] = []
    wanted: list[tuple[float, float]] = []
    for dimension, found in enumerate(betti_matching(first, second)):
        for own, other in found.matched:
            made, ended = second.pixels(dimension, other)
            pixels.append(first.pixels(dimension, own))
            wanted.append((second.values[made], 0.0 if ended == NEVER else second.values[ended]))
        for own in found.first:
            pixels.append(first.pixels(dimension, own))
            wanted.append((np.nan, np.nan))
    return np.array(pixels), np.array(wanted)


def missing(probability: np.ndarray, true: np.ndarray) -> int:
    """How many components and holes of the true foreground have no partner."""
    return sum(len(found.second) for found in betti_matching(Filtration(probability), Filtration(true)))


def matching_loss(probability: Tensor, true: np.ndarray) -> Tensor:
    """2 sum over matched features of |(birth, death) - partner's|^2 + sum over unmatched ones of either image
    of (birth - death)^2, for a probability map (H, W) and a binary image; a scalar."""
    seen = probability.detach().cpu().double().numpy()
    pixels, wanted = critical(seen, true)
    at = torch.from_numpy(pixels).to(probability.device)
    value = torch.where(at == NEVER, 0.0, probability.flatten()[at.clamp_min(0)])
    goal = torch.from_numpy(wanted).to(value)
    alone = goal.isnan().any(dim=1)
    apart = 2 * (value[~alone] - goal[~alone]).square().sum()
    return apart + (value[alone, 0] - value[alone, 1]).square().sum() + missing(seen, true)


class BettiMatching(Penalty):
    """`weight` times the Betti matching loss between each image's foreground probability and its labels.

    Components and holes of the probability's superlevel sets that are those of the true foreground should be
    born at 1 and die at 0; others should not last. Foreground is every class but `background`. Runs on the
    CPU, a few hundredths of a second for an image of 32 x 32 pixels.
    """

    card = Card(
        title="Topologically faithful image segmentation via induced matching of persistence barcodes",
        paper="arxiv:2211.15272",
        claim="Added to the pixels' loss it gives segmentations with fewer wrong components and holes.",
        verdict="reproduced",
        problems=("segmentation",),
        modality=("image",),
    )
    weight: float = Field(0.5, ge=0, le=1e6, description="alpha, the weight next to the objective")
    background: int = Field(0, ge=0, le=10_000, description="the class that is not foreground")

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """The weighted loss of each image (N,)."""
        probability = 1 - ctx.forward(model, batch).float().softmax(dim=1)[:, self.background]
        true = (batch.y != self.background).cpu().numpy()
        losses = [matching_loss(p, t) for p, t in zip(probability, true, strict=True)]
        return self.weight * torch.stack(losses)
