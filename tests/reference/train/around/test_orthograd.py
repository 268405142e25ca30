"""The orthogonal gradient against a projection by least squares, and its edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins.contract import Batch
from assay.plugins.train.around.orthograd import OrthoGrad, orthogonal


def by_least_squares(g: np.ndarray, w: np.ndarray) -> np.ndarray:
    flat, line = g.ravel(), w.reshape(-1, 1)
    rest = flat - line @ np.linalg.lstsq(line, flat, rcond=None)[0]
    return (rest * np.linalg.norm(flat) / np.linalg.norm(rest)).reshape(g.shape)


def test_by_hand():
    found = orthogonal(torch.tensor([3.0, 4.0]), torch.tensor([2.0, 0.0]))
    assert found.tolist() == [0.0, 5.0]


def test_each_parameter_by_itself(start, learn):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    x, y = torch.randn(5, 2), torch.randn(5, 2)
    grads = torch.autograd.grad((model(x) - y).pow(2).sum(1).mean() / 2, list(model.parameters()))
    before = [p.detach().numpy().copy() for p in model.parameters()]
    learn(start(model, OrthoGrad()), Batch({"index": torch.arange(5), "x": x, "y": y}))
    for p, w, g in zip(model.parameters(), before, grads, strict=True):
        step = (w - p.detach().numpy()) / 0.1
        np.testing.assert_allclose(step, by_least_squares(g.numpy(), w), atol=2e-6)
        assert abs((step * w).sum()) < 1e-5
        assert np.linalg.norm(step) == pytest.approx(float(g.norm()), rel=1e-4)


def test_edges():
    g = torch.tensor([1.0, 2.0])
    assert torch.equal(orthogonal(g, torch.zeros(2)), g)  # no direction to leave out
    assert torch.equal(orthogonal(torch.zeros(2), g), torch.zeros(2))
    w = torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert not orthogonal(0.3 * w, w).any()  # rounding errors are not blown up to a step
    assert torch.equal(orthogonal(torch.tensor([3.0]), torch.tensor([2.0])), torch.tensor([3.0]))
