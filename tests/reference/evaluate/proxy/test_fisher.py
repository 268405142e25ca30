"""The Fisher potential by loops over examples, channels and places."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from assay.plugins.evaluate.proxy.fisher import Fisher, channel_potential


def test_of_a_convolution_and_a_linear_layer_it_is_the_sum_over_channels(value: Callable[..., float]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 1, 4, 4)), rng.integers(0, 3, 5)
    squared = {"conv": np.zeros(2), "linear": np.zeros(3)}
    for one, label in zip(torch.tensor(x, dtype=torch.float32), torch.tensor(y), strict=True):
        conv = network[0](one[None])
        linear = network[3](torch.relu(conv).flatten(1))
        loss = functional.cross_entropy(linear, label[None])
        for name, a in {"conv": conv, "linear": linear}.items():
            (g,) = torch.autograd.grad(loss, a, retain_graph=True)
            for c in range(a.shape[1]):
                squared[name][c] += float((a[0, c] * g[0, c]).sum()) ** 2
    expected = sum(values.sum() for values in squared.values()) / (2 * 5)
    assert value(Fisher(), network, x, y) == pytest.approx(expected, rel=1e-5)


def test_channels_of_a_linear_layer_on_many_places_are_its_last_dimension(value: Callable[..., float]) -> None:
    network = nn.Sequential(nn.Linear(4, 3))
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 6, 4)), rng.normal(size=(2, 6, 3)).astype(np.float32)
    a = x @ network[0].weight.detach().double().numpy().T + network[0].bias.detach().numpy()
    expected = ((a * (a - y)).sum(axis=1) ** 2).sum() / (2 * 2)  # the half squared error's gradient is a - y
    assert value(Fisher(), network, x, y) == pytest.approx(expected, rel=1e-5)


def test_worked_by_hand() -> None:
    a, g = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [2.0, 1.0]])
    # a g is [[1, 0], [6, 4]]; squares [[1, 0], [36, 16]], summed over the examples and divided by 2 · 2.
    assert channel_potential(a, g).tolist() == [37 / 4, 4.0]
