"""Soft-NMS, and greedy non-maximum suppression as a field."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from assay.plugins._boxes import alike
from assay.plugins.contract import Batch, Card, Context, Field, Predict


@torch.no_grad()
def suppress(detections: Tensor, decay: str, overlap: float, sigma: float) -> Tensor:
    """The factor in [0, 1] on each score, (N, K), of detections (N, K, 6).

    The detection of the highest score that was not taken yet is taken, and the scores of the others of its
    class decay with their IoU u to it, until all are taken: `linear` by 1 - u and `hard` to 0 from
    u >= overlap on, `gaussian` by exp(-u^2 / sigma) everywhere.
    """
    scores = detections[..., 1]
    factor, left = torch.ones_like(scores), torch.ones_like(scores, dtype=torch.bool)
    u = alike(detections, detections)
    example = torch.arange(len(scores), device=scores.device)
    for _ in range(scores.shape[1]):
        taken = torch.where(left, scores * factor, -1.0).argmax(dim=1)
        left[example, taken] = False
        row = u[example, taken]
        if decay == "gaussian":
            weight = torch.exp(-row.square() / sigma)
        else:
            weight = torch.where(row >= overlap, 1 - row if decay == "linear" else torch.zeros_like(row), 1.0)
        factor = torch.where(left, factor * weight, factor)
    return factor


class SoftNMS(Predict):
    """Lowers the scores of detections that overlap a better one of their class, where greedy suppression
    (`decay: hard`) deletes them. Detections keep their places and boxes; a score below `floor` becomes 0.
    """

    card = Card(
        title="Soft-NMS -- Improving Object Detection With One Line of Code",
        paper="arxiv:1704.04503",
        claim="Where objects overlap, decaying the scores of overlapping detections gives a higher average precision "
        "than deleting them.",
        verdict="reproduced",
        problems=("detection",),
    )
    decay: Literal["linear", "gaussian", "hard"] = Field(
        "gaussian", description="how scores decay; hard is greedy non-maximum suppression"
    )
    overlap: float = Field(0.3, gt=0, le=1, description="IoU from which linear and hard decay")
    sigma: float = Field(0.5, gt=0, le=100, description="width of the Gaussian decay")
    floor: float = Field(0.001, ge=0, lt=1, description="scores below it become 0")

    def predict(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """Detections (N, K, 6) with decayed scores, differentiable as the model's are."""
        detections: Tensor = model(batch.x)
        scores = detections[..., 1] * suppress(detections.detach(), self.decay, self.overlap, self.sigma)
        scores = torch.where(scores < self.floor, 0.0, scores)
        return torch.cat([detections[..., :1], scores[..., None], detections[..., 2:]], dim=-1)
