"""A generator with the critic that trains it."""

from __future__ import annotations

import itertools
import math

from torch import Tensor, nn

from assay.plugins.contract import Card, Context, DataSpec, Field, Model


def hidden(inputs: int, width: int, depth: int) -> nn.Sequential:
    """Flatten, then linear layers with ReLU."""
    sizes = [inputs, *[width] * depth]
    pairs = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *pairs)


class Network(nn.Module):
    """`layers` and `head` are the generator, which is what the network computes; `critic` takes examples to one
    number each, and only a learner asks it."""

    def __init__(self, shape: tuple[int, ...], width: int, depth: int):
        super().__init__()
        self.shape, values = shape, math.prod(shape)
        self.layers = hidden(values, width, depth)
        self.head = nn.Linear(width, values)
        self.critic = nn.Sequential(*hidden(values, width, depth), nn.Linear(width, 1), nn.Flatten(0))

    def forward(self, x: Tensor) -> Tensor:
        """Noise (N, *shape) to examples of that shape."""
        out: Tensor = self.head(self.layers(x)).reshape(-1, *self.shape)
        return out


class GAN(Model):
    """Two multi-layer perceptrons with ReLU: a generator from noise in the shape of an example to an example, and
    a critic with one output.

    The critic is part of the model while it trains and of the stored weights, so that training can go on; what
    is exported and served is the generator.
    """

    card = Card(
        title="Generative Adversarial Networks",
        paper="arxiv:1406.2661",
        also=("arxiv:1701.07875",),
        problems=("generation",),
    )
    width: int = Field(256, ge=1, le=65536, description="units of each hidden layer of either")
    depth: int = Field(3, ge=1, le=64, description="hidden layers of either")

    def build(self, spec: DataSpec, ctx: Context) -> nn.Module:
        """`layers` and `head`: the generator; `critic`: examples (N, *shape) to numbers (N,)."""
        return Network(spec.shape, self.width, self.depth)
