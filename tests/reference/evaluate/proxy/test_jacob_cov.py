"""The score of the input gradients' correlations, in numpy and by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins.contract import NotAuditable
from assay.plugins.evaluate.proxy.jacob_cov import JacobCov, jacob_cov

K = 1e-5


def test_of_a_relu_network_it_is_the_numpy_formula(value: Callable[..., float]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3)).double().float()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 6)), rng.integers(0, 3, 5)
    one, two = (network[i].weight.detach().double().numpy() for i in (0, 2))
    open_units = x @ one.T + network[0].bias.detach().numpy() > 0
    rows = np.stack([two.sum(0) * mask @ one for mask in open_units])  # d sum(outputs) / dx of each example
    centred = rows - rows.mean(axis=1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    values, _ = np.linalg.eig(unit @ unit.T)
    expected = -np.sum(np.log(values.real + K) + 1 / (values.real + K))
    assert value(JacobCov(), network, x, y) == pytest.approx(expected, rel=1e-4)


def test_rows_that_do_not_correlate_score_highest() -> None:
    rows = np.array([[1.0, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    assert jacob_cov(rows) == pytest.approx(-3 * (np.log(1 + K) + 1 / (1 + K)))
    # Two equal rows: eigenvalues 2, 0, 1.
    twice = np.stack([rows[0], rows[0], rows[1]])
    assert jacob_cov(twice) == pytest.approx(-sum(np.log(v + K) + 1 / (v + K) for v in (2, 0, 1)), rel=1e-6)
    assert jacob_cov(twice) < jacob_cov(rows)


def test_a_constant_gradient_correlates_with_nothing(value: Callable[..., float]) -> None:
    network = nn.Sequential(nn.Linear(3, 3))
    nn.init.zeros_(network[0].weight)
    with pytest.raises(NotAuditable, match="correlates with nothing"):
        value(JacobCov(), network, np.ones((2, 3)), np.zeros((2, 3), np.float32))
