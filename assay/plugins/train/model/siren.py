"""A network of sines for signals as functions of coordinates."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Annotated

import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Card, Context, DataSpec, Field, Model


class Sine(nn.Module):
    """sin(omega x)."""

    def __init__(self, omega: float):
        super().__init__()
        self.omega = omega

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * x)


def weight_bound(inputs: int, omega: float, first: bool) -> float:
    """Half the width of the uniform distribution of a layer's weights: 1 / inputs in the first layer,
    sqrt(6 / inputs) / omega in all others, the last included."""
    return 1 / inputs if first else math.sqrt(6 / inputs) / omega


def linear(inputs: int, outputs: int, omega: float, first: bool = False) -> nn.Linear:
    """A layer with the paper's weights and torch's biases, U(-1/sqrt(inputs), 1/sqrt(inputs))."""
    layer = nn.Linear(inputs, outputs)
    bound = weight_bound(inputs, omega, first)
    nn.init.uniform_(layer.weight, -bound, bound)
    return layer


class Siren(Model):
    """Fully connected layers with sin(omega x) after each but the last, applied to each point by itself.

    The paper's networks have three to five hidden layers of 256. A signal that varies more within
    the coordinates' range, [-1, 1], wants a larger omega, a smooth one a smaller.
    """

    card = Card(
        title="Implicit Neural Representations with Periodic Activation Functions",
        paper="arxiv:2006.09661",
        claim="Sines represent a signal's fine detail far better than rectified units in the same network.",
        verdict="reproduced",
        problems=("field",),
        modality=("coordinates",),
    )
    hidden: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = Field(
        (64, 64, 64), min_length=1, description="widths of the hidden layers"
    )
    omega: float = Field(
        30.0, gt=0, description="frequency of the sines; the weights after the first layer shrink with it"
    )

    def build(self, spec: DataSpec, ctx: Context) -> nn.Module:
        """`layers`: linear and sine for each width; `head`: linear to the values. Points (N, P, d) to (N, P, c).

        Raises BadInput where the examples are no points.
        """
        if len(spec.shape) != 2:
            raise BadInput(f"train.model: siren takes points (P, d), the examples have shape {list(spec.shape)}")
        width = spec.shape[1]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, units in enumerate(self.hidden, 1):
            layers[f"linear{i}"] = linear(width, units, self.omega, first=i == 1)
            layers[f"sine{i}"] = Sine(self.omega)
            width = units
        head = linear(width, spec.n_outputs, self.omega)
        return nn.Sequential(OrderedDict(layers=nn.Sequential(layers), head=head))
