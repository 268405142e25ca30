"""A small U-Net that knows the state of a diffusion, the degraded image and the time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Card, Context, DataSpec, Field, Model
from assay.plugins.train.model._common import image_shape

GROUPS = 4


def time_features(t: Tensor, width: int) -> Tensor:
    """Sines and cosines (N, width) of times t in [0, 1] (N,), at frequencies from 1000 to 0.1 as transformers have."""
    rates = 1000 * torch.exp(
        -math.log(10_000) * torch.arange(width // 2, device=t.device, dtype=t.dtype) / (width // 2)
    )
    angles = t[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Block(nn.Module):
    """Convolution, group norm, scaled and shifted by the time, SiLU."""

    def __init__(self, inputs: int, outputs: int, width: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.norm = nn.GroupNorm(GROUPS, outputs)
        self.time = nn.Linear(width, 2 * outputs)
        self.act = nn.SiLU()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.time(time)[:, :, None, None].chunk(2, dim=1)
        found: Tensor = self.act(self.norm(self.conv(x)) * (1 + scale) + shift)
        return found


class TimeUNet(nn.Module):
    """Features (N, width, H, W) of an image pair (N, 2 C, H, W) at times t (N,): one level down and up."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.enter = Block(inputs, width, width)
        self.down = Block(width, 2 * width, width, stride=2)
        self.middle = Block(2 * width, 2 * width, width)
        self.up = nn.Upsample(scale_factor=2)
        self.leave = Block(3 * width, width, width)

    def forward(self, pair: Tensor, t: Tensor) -> Tensor:
        time = self.time(time_features(t, self.width))
        high = self.enter(pair, time)
        low = self.middle(self.down(high, time), time)
        found: Tensor = self.leave(torch.cat([self.up(low), high], dim=1), time)
        return found


class ResidualNet(nn.Module):
    """Predicts the residual, and the noise where `head` has the channels for it.

    Called with the degraded image alone it restores in one step: the image minus the residual predicted at the
    last time, where the state is the image itself.
    """

    def __init__(self, channels: int, width: int, outputs: int):
        super().__init__()
        self.channels = channels
        self.layers = TimeUNet(2 * channels, width)
        self.head = nn.Conv2d(width, outputs, 3, padding=1)

    def forward(self, x: Tensor, state: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W), states of that shape and times (N,) in [0, 1] to residuals (and noise)."""
        if state is None or t is None:
            found = self.head(self.layers(torch.cat([x, x], dim=1), torch.ones_like(x[:, 0, 0, 0])))
            return x - found[:, : self.channels]
        out: Tensor = self.head(self.layers(torch.cat([state, x], dim=1), t))
        return out


class RDDMUNet(Model):
    """A U-Net of one level for `train/objective/rddm`, with the state and the degraded image as its input.

    The paper's has four levels with attention and 64 channels.
    """

    card = Card(
        title="Residual Denoising Diffusion Models",
        paper="arxiv:2308.13712",
        problems=("restoration",),
        modality=("image",),
    )
    width: int = Field(16, ge=4, le=1024, multiple_of=4, description="channels of the first level")
    noise: bool = Field(False, description="predict the noise too (SM-Res-N), not the residual alone (SM-Res)")

    def build(self, spec: DataSpec, ctx: Context) -> nn.Module:
        """`layers`: the U-Net; `head`: a convolution to the residual, or to residual and noise.

        Raises BadInput where the examples are no images of even sides.
        """
        channels, height, width = image_shape(spec, "rddm_unet")
        if height % 2 or width % 2:
            raise BadInput(
                f"train.model: rddm_unet takes images of even height and width, these are {height} x {width}"
            )
        return ResidualNet(channels, self.width, channels * (2 if self.noise else 1))
