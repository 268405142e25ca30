"""A small U-Net of images and times."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import Card, Context, DataSpec, Field, Model
from assay.plugins.train.model._common import image_shape
from assay.plugins.train.model._time import TimeEmbedding


def norm(channels: int) -> nn.GroupNorm:
    """Group normalisation in (at most) eight groups."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


class Block(nn.Module):
    """Two convolutions around a shortcut; the time is added between them."""

    def __init__(self, inputs: int, outputs: int, time: int):
        super().__init__()
        self.norm1, self.conv1 = norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, outputs)
        self.norm2, self.conv2 = norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(N, inputs, H, W) and time features to (N, outputs, H, W)."""
        h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[:, :, None, None]
        out: Tensor = self.conv2(F.silu(self.norm2(h))) + self.shortcut(x)
        return out


class Body(nn.Module):
    """Down through `depth` halvings and up again; each level's way up sees what came down there."""

    def __init__(self, channels: int, width: int, depth: int):
        super().__init__()
        widths = [width * 2 ** min(i, 1) for i in range(depth + 1)]
        self.time = TimeEmbedding(width)
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList(Block(a, b, width) for a, b in zip([width, *widths], widths))
        self.shrink = nn.ModuleList(nn.Conv2d(w, w, 3, stride=2, padding=1) for w in widths[:-1])
        self.up = nn.ModuleList(
            Block(a + b, b, width) for a, b in zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True)
        )

    def forward(self, x: Tensor, t: Tensor | None) -> Tensor:
        """Images (N, C, H, W) and times to features (N, width, H, W)."""
        time = self.time(x, t)
        x, seen = self.enter(x), []
        for block, shrink in zip(self.down, [*self.shrink, nn.Identity()]):
            x = block(x, time)
            seen.append(x)
            x = shrink(x)
        for block, skip in zip(self.up, reversed(seen[:-1]), strict=True):
            x = F.interpolate(x, size=skip.shape[2:], mode="nearest")
            x = block(torch.cat([x, skip], dim=1), time)
        return x


class Network(nn.Module):
    """The body and a head to as many channels as the image has."""

    def __init__(self, channels: int, width: int, depth: int):
        super().__init__()
        self.layers = Body(channels, width, depth)
        self.head = nn.Sequential(norm(width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) and times (N,) in [0, 1], 0 where not given, to images of that shape."""
        out: Tensor = self.head(self.layers(x, t))
        return out


class TimeUNet(Model):
    """A U-Net that takes an image and a time and gives an image: a flow's velocity, or a diffusion's noise.

    Residual blocks with group normalisation, the time added in each; a halving of the resolution between
    levels, all but the first of twice the width; without the attention of larger ones.
    """

    card = Card(
        title="Denoising Diffusion Probabilistic Models",
        paper="arxiv:2006.11239",
        also=("arxiv:1505.04597",),
        problems=("generation",),
        modality=("image",),
    )
    width: int = Field(32, ge=8, le=1024, multiple_of=8, description="channels of the first level")
    depth: int = Field(2, ge=1, le=6, description="halvings of the resolution")

    def build(self, spec: DataSpec, ctx: Context) -> nn.Module:
        """`layers`: the body, (N, width, H, W); `head`: to the image. Raises BadInput where the examples are no
        images."""
        channels, _, _ = image_shape(spec, self.method_name())
        return Network(channels, self.width, self.depth)
