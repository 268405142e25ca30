"""A multi-layer perceptron."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Annotated, Literal

from torch import nn

from assay.plugins.contract import Card, Context, DataSpec, Field, Model


class MLP(Model):
    """Fully connected layers with ReLU or tanh between them, on the flattened example."""

    card = Card(title="Learning representations by back-propagating errors", paper="doi:10.1038/323533a0")
    hidden: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = Field(
        (128,), description="widths of the hidden layers; empty for a linear model"
    )
    activation: Literal["relu", "tanh"] = Field("relu", description="what follows each hidden layer")

    def build(self, spec: DataSpec, ctx: Context) -> nn.Module:
        """`layers`: flatten, then linear and activation for each width; `head`: linear to the outputs."""
        width = math.prod(spec.shape)
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for i, units in enumerate(self.hidden, 1):
            layers[f"linear{i}"] = nn.Linear(width, units)
            layers[f"{self.activation}{i}"] = nn.ReLU() if self.activation == "relu" else nn.Tanh()
            width = units
        return nn.Sequential(OrderedDict(layers=nn.Sequential(layers), head=nn.Linear(width, spec.n_outputs)))
