"""A multi-layer perceptron of examples and times."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from assay.plugins.contract import Card, Context, DataSpec, Field, Model
from assay.plugins.train.model._time import TimeEmbedding


class Network(nn.Module):
    """Fully connected layers on the flattened example beside its time's features."""

    def __init__(self, shape: tuple[int, ...], width: int, depth: int, time: int):
        super().__init__()
        self.shape, values = shape, math.prod(shape)
        self.time = TimeEmbedding(time)
        sizes = [values + time, *[width] * depth]
        pairs = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*pairs)
        self.head = nn.Linear(width, values)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """Examples (N, *shape) and times (N,) in [0, 1], 0 where not given, to values of that shape."""
        both = torch.cat([x.flatten(1), self.time(x, t)], dim=1)
        out: Tensor = self.head(self.layers(both)).reshape(-1, *self.shape)
        return out


class TimeMLP(Model):
    """Fully connected layers that take an example of any shape and a time and give values of that shape: a flow's
    velocity, or a diffusion's noise."""

    card = Card(
        title="Denoising Diffusion Probabilistic Models",
        paper="arxiv:2006.11239",
        problems=("generation",),
    )
    width: int = Field(256, ge=1, le=65536, description="units of each hidden layer")
    depth: int = Field(3, ge=1, le=64, description="hidden layers")
    time_features: int = Field(32, ge=2, le=1024, multiple_of=2, description="numbers that stand for the time")

    def build(self, spec: DataSpec, ctx: Context) -> nn.Module:
        """`layers`: linear and SiLU for each hidden layer; `head`: linear to the example's values."""
        return Network(spec.shape, self.width, self.depth, self.time_features)
