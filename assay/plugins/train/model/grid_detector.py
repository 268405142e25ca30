"""A small detector with one prediction a grid cell and no anchors."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Card, Context, DataSpec, Field, Model
from assay.plugins.train.model._common import image_shape

STRIDE = 4
"""Pixels between the centres of neighbouring cells."""


class Decode(nn.Module):
    """Raw outputs (N, 4 + classes, h, w) to detections (N, h w, 6): the most probable class, its probability,
    and the box whose sides lie exp(output) strides left, above, right and below the cell's centre."""

    centres: Tensor

    def __init__(self, height: int, width: int):
        super().__init__()
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres = STRIDE * (torch.stack([columns, rows], dim=-1).reshape(1, -1, 2) + 0.5)
        self.register_buffer("centres", centres, persistent=False)

    def forward(self, raw: Tensor) -> Tensor:
        cells = raw.flatten(2).transpose(1, 2)
        far = STRIDE * cells[..., :4].clamp(max=6).exp()
        score, kind = cells[..., 4:].sigmoid().max(dim=2, keepdim=True)
        low, high = self.centres - far[..., :2], self.centres + far[..., 2:]
        return torch.cat([kind.to(raw.dtype), score, low, high], dim=2)


def stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """3 x 3 convolution, batch norm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs), relu=nn.ReLU()))


class GridDetector(Model):
    """Convolutions to a grid of cells four pixels wide; each cell predicts the classes' probabilities and the
    distances to the four sides of a box. One level of the paper's pyramid, without its centre-ness."""

    card = Card(
        title="FCOS: Fully Convolutional One-Stage Object Detection",
        paper="arxiv:1904.01355",
        problems=("detection",),
        modality=("image",),
    )
    width: int = Field(16, ge=8, le=1024, multiple_of=8, description="channels at half size; then twice as many")

    def build(self, spec: DataSpec, ctx: Context) -> nn.Module:
        """`layers`: features (N, 2 width, H/4, W/4); `head`: 1 x 1 convolution to four distances and the
        classes' logits; `decode`: to detections (N, H/4 W/4, 6). Raises BadInput where the image's sides are
        no multiples of four."""
        channels, height, width = image_shape(spec, "grid_detector")
        if height % STRIDE or width % STRIDE:
            raise BadInput(f"train.model: grid_detector takes sides that 4 divides, the images are {height} x {width}")
        wide = 2 * self.width
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            stage1=stage(channels, self.width, 2),
            stage2=stage(self.width, wide, 2),
            stage3=stage(wide, wide, 1),
            stage4=stage(wide, wide, 1),
        )
        head = nn.Conv2d(wide, 4 + spec.n_outputs, 1)
        with torch.no_grad():  # the paper's prior: every class has probability 0.01 in every cell
            head.get_parameter("weight")[4:] = 0
            head.get_parameter("bias")[4:] = -4.6
        decode = Decode(height // STRIDE, width // STRIDE)
        return nn.Sequential(OrderedDict(layers=nn.Sequential(layers), head=head, decode=decode))
