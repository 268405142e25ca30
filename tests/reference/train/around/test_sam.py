"""SAM against two steps worked by hand in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins.contract import Batch
from assay.plugins.train.around._common import climbed
from assay.plugins.train.around.sam import SAM

X = np.array([[1.0, 2.0], [-1.0, 0.5], [3.0, -2.0]])
Y = np.array([[1.0], [0.0], [-1.0]])


def batch() -> Batch:
    return Batch({"index": torch.arange(3), "x": torch.tensor(X).float(), "y": torch.tensor(Y).float()})


def gradient(w: np.ndarray) -> np.ndarray:
    """Of mean(|x w - y|^2 / 2) at w (2, 1)."""
    return X.T @ (X @ w - Y) / len(X)


def test_two_steps_by_hand(start, learn):
    model = nn.Linear(2, 1, bias=False)
    w = model.weight.detach().numpy().T.astype(np.float64).copy()
    state = start(model, SAM(rho=0.7))
    for _ in range(2):
        g = gradient(w)
        before = np.mean((X @ w - Y) ** 2) / 2
        w = w - 0.1 * gradient(w + 0.7 * g / np.linalg.norm(g))
        assert learn(state, batch()).item() == pytest.approx(before, rel=1e-5)
        np.testing.assert_allclose(model.weight.detach().numpy().T, w, rtol=1e-5)


def test_the_norm_is_over_all_parameters(start, learn):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    seen = []

    class Watch(nn.Module):
        """Notes the parameters at each forward pass."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.cat([p.detach().flatten().clone() for p in self.parameters()]))
            return self.inner(x)

    state = start(Watch(), SAM(rho=0.3))
    loss = (model(batch().x) - batch().y).pow(2).sum(1).mean() / 2
    g = torch.cat([p.flatten() for p in torch.autograd.grad(loss, list(model.parameters()))])
    learn(state, batch())
    assert len(seen) == 2
    torch.testing.assert_close(seen[1] - seen[0], 0.3 * g / g.norm(), atol=1e-6, rtol=1e-4)


def test_weights_come_back_bit_for_bit_also_after_an_exception():
    parameters = [nn.Parameter(torch.randn(50) * 10**k) for k in range(-3, 4)]
    grads = [torch.randn(50) for _ in parameters[:-1]] + [None]
    before = [p.detach().clone() for p in parameters]
    with climbed(parameters, grads, 0.37):
        assert not torch.equal(parameters[0], before[0])
        assert torch.equal(parameters[-1], before[-1])
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
    with pytest.raises(ZeroDivisionError), climbed(parameters, grads, 0.37):
        _ = 1 / 0
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))


def test_only_the_first_pass_updates_running_statistics(start, learn):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    with torch.no_grad():
        hidden = model[0](batch().x)
    learn(start(model, SAM(rho=5.0)), batch())
    torch.testing.assert_close(model[1].running_mean, 0.1 * hidden.mean(0))
    torch.testing.assert_close(model[1].running_var, 0.9 + 0.1 * hidden.var(0))
    assert model[1].num_batches_tracked == 1
    assert model[1].track_running_stats


def test_a_stationary_point_stays(start, learn):
    model = nn.Linear(2, 1, bias=False)
    w = model.weight.detach().clone()
    at = batch().replace(y=model(batch().x).detach())
    learn(start(model, SAM()), at)
    assert torch.equal(model.weight, w)
