"""Boxes (x0, y0, x1, y1) in pixels, for the methods of several slots.

A detection is a row (class, score, box); detections of score 0 are none. A true box is a row (class, box);
rows of class -1 fill up.
"""

from __future__ import annotations

import torch
from torch import Tensor

FILLING = -1.0
CONFIDENT = 0.3
"""The score from which a detection counts where one threshold is needed; focal losses keep scores low."""
OVERLAP = 0.5
"""The intersection over union from which two boxes are the same object."""


def area(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4); 0 where a side is negative."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0)
    return sides[..., 0] * sides[..., 1]


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (..., A, B) of boxes (..., A, 4) and (..., B, 4); 0 where both have no area."""
    first, second = a[..., :, None, :], b[..., None, :, :]
    corners = torch.cat(
        [torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])], dim=-1
    )
    both = area(corners)
    either = area(first) + area(second) - both
    return both / either.clamp_min(1e-9)


def alike(a: Tensor, b: Tensor) -> Tensor:
    """IoU (..., A, B) of detections (..., A, 6) and (..., B, 6); 0 where their classes differ."""
    return iou(a[..., 2:], b[..., 2:]) * (a[..., :, None, 0] == b[..., None, :, 0])


def matched(detections: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many confident detections (N, K, 6) find a true box (N, M, 5) of their own, of their class and with
    an IoU of at least one half, the highest score first; with the numbers of detections and of true boxes:
    three (N,) of int64."""
    true = torch.cat([boxes[..., :1], torch.ones_like(boxes[..., :1]), boxes[..., 1:]], dim=-1).to(detections)
    confident = detections[..., 1] >= CONFIDENT
    free = true[..., 0] != FILLING
    count = free.sum(1)
    found = torch.zeros_like(count)
    overlap = alike(detections, true)
    example = torch.arange(len(detections), device=detections.device)
    for k in detections[..., 1].argsort(dim=1, descending=True, stable=True).T:
        best, box = torch.where(free, overlap[example, k], -1.0).max(dim=1)
        hit = confident[example, k] & (best >= OVERLAP)
        found = found + hit
        free = free & ~(hit[:, None] & (torch.arange(free.shape[1], device=free.device) == box[:, None]))
    return found, confident.sum(1), count
