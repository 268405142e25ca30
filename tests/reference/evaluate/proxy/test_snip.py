"""Connection sensitivities in closed form, and as what the loss does when a connection goes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from assay.plugins.evaluate.proxy.snip import Snip


def test_of_a_linear_model_it_is_the_closed_form(value: Callable[..., float]) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(6, 4)), rng.normal(size=(6, 3)).astype(np.float32)
    network = nn.Sequential(nn.Linear(4, 3))
    weight = network[0].weight.detach().double().numpy()
    residual = x @ weight.T + network[0].bias.detach().numpy() - y
    expected = np.abs(weight * (residual.T @ x / 6)).sum()
    assert value(Snip(), network, x, y) == pytest.approx(expected, rel=1e-5)


def test_of_a_network_it_is_the_sum_of_the_losses_slopes_in_each_connection(value: Callable[..., float]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(8, 4)), rng.integers(0, 3, 8)
    inputs, targets = torch.tensor(x), torch.tensor(y)
    step, expected = 1e-5, 0.0
    for layer in (0, 2):
        for at in np.ndindex(*network[layer].weight.shape):
            losses = []
            for factor in (1 + step, 1 - step):  # the connection's gate c, around 1
                other = copy.deepcopy(network).double()
                with torch.no_grad():
                    other[layer].weight[at] *= factor
                    losses.append(float(functional.cross_entropy(other(inputs), targets)))
            expected += abs(losses[0] - losses[1]) / (2 * step)
    assert value(Snip(), network, x, y) == pytest.approx(expected, rel=1e-4)
