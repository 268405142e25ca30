"""A small U-Net."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Card, Context, DataSpec, Field, Model
from assay.plugins.train.model._common import image_shape


def double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Twice: 3 x 3 convolution that keeps the size, batch norm, ReLU."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for i, channels in enumerate((inputs, outputs), 1):
        parts[f"conv{i}"] = nn.Conv2d(channels, outputs, 3, padding=1, bias=False)
        parts[f"norm{i}"] = nn.BatchNorm2d(outputs)
        parts[f"relu{i}"] = nn.ReLU()
    return nn.Sequential(parts)


class UShape(nn.Module):
    """Images (N, C, H, W) to features (N, width, H, W): each level down halves the size and doubles the
    channels; each level up joins what came down at its size."""

    def __init__(self, channels: int, width: int, depth: int):
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(double_convolution(a, b) for a, b in zip([channels, *widths], widths))
        self.pool = nn.MaxPool2d(2)
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(w, w // 2, 2, stride=2) for w in reversed(widths[1:]))
        self.up = nn.ModuleList(double_convolution(w, w // 2) for w in reversed(widths[1:]))

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for i, block in enumerate(self.down):
            x = block(self.pool(x) if i else x)
            kept.append(x)
        for enlarge, block, beside in zip(self.enlarge, self.up, reversed(kept[:-1])):
            x = block(torch.cat([beside, enlarge(x)], dim=1))
        return x


class UNet(Model):
    """An encoder and a decoder of convolutions with shortcuts between equal sizes; one output a class at
    each pixel. Convolutions are padded, so that the output has the image's size (the paper's are not)."""

    card = Card(
        title="U-Net: Convolutional Networks for Biomedical Image Segmentation",
        paper="arxiv:1505.04597",
        problems=("segmentation",),
        modality=("image",),
    )
    width: int = Field(8, ge=4, le=512, multiple_of=4, description="channels at full size; doubled at each level")
    depth: int = Field(2, ge=1, le=6, description="levels down, each halving height and width")

    def build(self, spec: DataSpec, ctx: Context) -> nn.Module:
        """`layers`: features at the image's size; `head`: 1 x 1 convolution to the outputs.

        Raises BadInput where the examples are no images or cannot be halved `depth` times.
        """
        channels, height, width = image_shape(spec, "unet")
        if height % 2**self.depth or width % 2**self.depth:
            raise BadInput(
                f"train.model.depth: images of {height} x {width} pixels cannot be halved {self.depth} times"
            )
        layers = UShape(channels, self.width, self.depth)
        return nn.Sequential(OrderedDict(layers=layers, head=nn.Conv2d(self.width, spec.n_outputs, 1)))
