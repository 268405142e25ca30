"""Synaptic flow as products of magnitudes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins.evaluate.proxy.synflow import Synflow

Y = np.zeros((2, 3), np.float32)


def magnitudes(layer: nn.Linear) -> np.ndarray:
    return np.abs(layer.weight.detach().double().numpy())


def test_without_biases_each_layer_carries_the_whole_product(value: Callable[..., float]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))
    product = np.ones(3) @ magnitudes(network[2]) @ magnitudes(network[0]) @ np.ones(4)
    data = np.random.default_rng(0).normal(size=(2, 4))
    assert value(Synflow(), network, data, Y) == pytest.approx(2 * product, rel=1e-6)
    assert value(Synflow(), network, 5 * data, Y) == value(Synflow(), network, data, Y)  # it looks at no data


def test_biases_flow_too_and_are_not_counted(value: Callable[..., float]) -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    first, second = magnitudes(network[0]), magnitudes(network[2])
    bias = np.abs(network[0].bias.detach().double().numpy())
    expected = np.ones(3) @ second @ (first @ np.ones(4) + bias) + np.ones(3) @ second @ first @ np.ones(4)
    assert value(Synflow(), network, np.zeros((2, 4)), Y) == pytest.approx(expected, rel=1e-6)


def test_before_training_batch_norms_change_nothing(value: Callable[..., float]) -> None:
    torch.manual_seed(2)
    plain = nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))
    normed = nn.Sequential(plain[0], nn.BatchNorm1d(5), nn.ReLU(), plain[2])
    x = np.random.default_rng(0).normal(size=(6, 4))
    y = np.zeros((6, 3), np.float32)
    assert value(Synflow(), normed, x, y) == pytest.approx(value(Synflow(), plain, x, y), rel=1e-4)


def test_numbers_that_single_precision_does_not_hold(value: Callable[..., float]) -> None:
    network = nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(5)])
    for layer in network:
        nn.init.constant_(layer.weight, -1e9)  # each layer multiplies by 2e9, the sum over 5 layers counts R five times
    expected = 5 * 2 * (2e9) ** 5
    assert value(Synflow(), network, np.ones((2, 2)), Y) == pytest.approx(expected, rel=1e-6)
