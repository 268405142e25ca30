"""RMSprop against steps worked in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.plugins.train.optimizer.rmsprop import RMSprop


@pytest.mark.parametrize(("alpha", "eps", "momentum", "decay"), [(0.9, 1e-8, 0.0, 0.0), (0.5, 0.1, 0.8, 0.01)])
def test_three_steps_by_hand(alpha: float, eps: float, momentum: float, decay: float) -> None:
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    method = RMSprop(lr=0.1, alpha=alpha, eps=eps, momentum=momentum, weight_decay=decay)
    optimizer = method.build([{"params": [w], "name": "model", "lr_scale": 1.0}])
    value, square, velocity = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for gradient in ([1.0, 2.0], [-3.0, 0.5], [0.25, 0.0]):
        w.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        g = np.array(gradient) + decay * value
        square = alpha * square + (1 - alpha) * g**2
        velocity = momentum * velocity + g / (np.sqrt(square) + eps)
        value = value - 0.1 * velocity
        np.testing.assert_allclose(w.detach().numpy(), value, rtol=1e-12)
