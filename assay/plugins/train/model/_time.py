"""Time as features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SCALE = 1000.0
"""Times in [0, 1] stand for so many steps, which the frequencies are made for."""


def sinusoids(t: Tensor, size: int) -> Tensor:
    """Sines and cosines (N, size) of 1000 t at frequencies from 1 down to 1/10,000; `size` is even."""
    half = size // 2
    frequencies = torch.exp(torch.arange(half, device=t.device, dtype=t.dtype) * (-math.log(10_000.0) / half))
    angles = SCALE * t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """Times (N,) to features (N, size): sinusoids, then two linear layers."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.first, self.act, self.second = nn.Linear(size, size), nn.SiLU(), nn.Linear(size, size)

    def forward(self, x: Tensor, t: Tensor | None) -> Tensor:
        """Features of the times of the examples x; of time 0 where there are none."""
        if t is None:
            t = x.new_zeros(x.shape[0])
        out: Tensor = self.second(self.act(self.first(sinusoids(t, self.size))))
        return out
