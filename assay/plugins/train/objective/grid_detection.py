"""The loss of a detector with one prediction a grid cell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins._boxes import FILLING, area, iou
from assay.plugins.contract import Batch, Card, Context, Field, Objective


def assign(boxes: Tensor, centres: Tensor, reach: float) -> Tensor:
    """The true box of each cell (N, K), -1 for none: of the boxes (N, M, 5) that hold the cell's centre (K, 2)
    and whose own centre is less than `reach` pixels away along both axes, the smallest."""
    corners = boxes[..., 1:]
    middle = (corners[..., :2] + corners[..., 2:]) / 2
    near = ((centres[:, None] - middle[:, None]).abs() < reach).all(dim=-1)
    inside = ((centres[:, None] > corners[:, None, :, :2]) & (centres[:, None] < corners[:, None, :, 2:])).all(dim=-1)
    candidate = near & inside & (boxes[:, None, :, 0] != FILLING)
    size = torch.where(candidate, area(corners)[:, None], torch.inf)
    smallest, box = size.min(dim=2)
    return torch.where(smallest.isfinite(), box, -1)


def focal(logits: Tensor, target: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss of binary targets: -alpha_t (1 - p_t)^gamma log p_t, elementwise."""
    p = logits.sigmoid()
    right = torch.where(target > 0, p, 1 - p)
    weight = torch.where(target > 0, alpha, 1 - alpha)
    return weight * (1 - right) ** gamma * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


class GridDetection(Objective):
    """Focal loss of the classes in all cells plus -log IoU of the boxes in the cells of an object, each added
    up and divided by the image's number of such cells.

    An object's cells are those inside its box that lie less than `radius` cells from its centre; a cell of
    several objects belongs to the smallest. It reads the raw outputs of the model's `head`, four distances
    and the classes' logits, and the boxes of the prediction.
    """

    card = Card(
        title="FCOS: Fully Convolutional One-Stage Object Detection",
        paper="arxiv:1904.01355",
        also=("arxiv:1708.02002", "arxiv:1608.01471"),
        problems=("detection",),
    )
    radius: float = Field(1.5, gt=0, le=100, description="cells around an object's centre that predict it")
    alpha: float = Field(0.25, gt=0, lt=1, description="weight of the positive class in the focal loss")
    gamma: float = Field(2.0, ge=0, le=10, description="how far the focal loss turns to hard cells; 0 is cross-entropy")

    def reads(self, model: nn.Module) -> Sequence[str]:
        return ("head",)

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """The loss of each image (N,)."""
        raw = ctx.activations(model, batch, ("head",))["head"].float()
        predicted = ctx.forward(model, batch)[..., 2:].float()
        height, width = raw.shape[2:]
        stride = batch.x.shape[2] / height
        places = torch.arange(max(height, width), device=raw.device)
        rows, columns = torch.meshgrid(places[:height], places[:width], indexing="ij")
        centres = stride * (torch.stack([columns, rows], dim=-1).reshape(-1, 2) + 0.5)
        box = assign(batch.boxes, centres, self.radius * stride)
        held = box >= 0
        true = batch.boxes.gather(1, box.clamp_min(0)[..., None].expand(-1, -1, 5))
        logits = raw.flatten(2).transpose(1, 2)[..., 4:]
        target = F.one_hot(true[..., 0].clamp_min(0).long(), logits.shape[2]) * held[..., None]
        classes = focal(logits, target.to(logits), self.alpha, self.gamma).sum(dim=(1, 2))
        overlap = iou(predicted[:, :, None], true[:, :, None, 1:])[..., 0, 0]
        sides = torch.where(held, -overlap.clamp_min(1e-6).log(), 0.0).sum(dim=1)
        return (classes + sides) / held.sum(dim=1).clamp_min(1)
