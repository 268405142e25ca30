"""The gradient's norm of a two-layer linear network in closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins.evaluate.proxy.grad_norm import GradNorm


def test_it_sums_the_norms_of_the_layers_weights(value: Callable[..., float]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 4)), rng.normal(size=(5, 3)).astype(np.float32)
    network = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3))
    one, two = (p.detach().double().numpy() for p in (network[0].weight, network[1].weight))
    hidden = x @ one.T + network[0].bias.detach().numpy()
    residual = hidden @ two.T + network[1].bias.detach().numpy() - y  # dL/dz of each example's half squared error
    expected = np.linalg.norm(residual.T @ hidden / 5) + np.linalg.norm(two.T @ residual.T @ x / 5)
    assert value(GradNorm(), network, x, y) == pytest.approx(expected, rel=1e-5)


def test_a_layer_that_nothing_depends_on_adds_nothing(value: Callable[..., float]) -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 3), nn.Linear(7, 7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    network = Beside()
    x, y = np.ones((2, 2)), np.zeros((2, 3), np.float32)
    alone = nn.Sequential(network.used)
    assert value(GradNorm(), network, x, y) == value(GradNorm(), alone, x, y) > 0
