"""-w (H g) with the whole Hessian written out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian
from torch.nn import functional

from assay.plugins.evaluate.proxy.grasp import Grasp


def test_it_is_minus_weights_times_hessian_times_gradient(value: Callable[..., float]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.integers(0, 3, 7)
    found = value(Grasp(), network, x, y)

    network.double()
    names, shapes = ["0.weight", "2.weight"], [(4, 3), (3, 4)]
    start = torch.cat([network.get_parameter(name).detach().flatten() for name in names])

    def loss(flat: Tensor) -> Tensor:
        parts = [part.view(shape) for part, shape in zip(flat.split([12, 12]), shapes, strict=True)]
        return functional.cross_entropy(
            functional_call(network, dict(zip(names, parts, strict=True)), torch.tensor(x)), torch.tensor(y)
        )

    expected = -float(start @ (hessian(loss)(start) @ grad(loss)(start)))
    assert found == pytest.approx(expected, rel=1e-4)


def test_worked_by_hand(value: Callable[..., float]) -> None:
    # One weight w = 2, x = 3, y = 0: L = (w x)² / 2, g = w x² = 18, H = x² = 9, -w H g = -324.
    network = nn.Sequential(nn.Linear(1, 1, bias=False))
    nn.init.constant_(network[0].weight, 2.0)
    assert value(Grasp(), network, np.array([[3.0]]), np.zeros((1, 1), np.float32)) == pytest.approx(-324)
