"""SDAT against two steps worked by hand: the objective smoothed, the penalty at the weights themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Card, Context, Penalty
from assay.plugins.train.around.sam import SAM
from assay.plugins.train.around.sdat import SDAT

X = np.array([[1.0, 2.0], [-1.0, 0.5], [3.0, -2.0]])
Y = np.array([[1.0], [0.0], [-1.0]])


class Quartic(Penalty):
    """The fourth power of the output."""

    card = Card(title="test")

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        return ctx.forward(model, batch)[:, 0] ** 4


def batch() -> Batch:
    return Batch({"index": torch.arange(3), "x": torch.tensor(X).float(), "y": torch.tensor(Y).float()})


def task(w: np.ndarray) -> np.ndarray:
    return X.T @ (X @ w - Y) / 3


def penalty(w: np.ndarray) -> np.ndarray:
    return X.T @ (4 * (X @ w) ** 3) / 3


def small_network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.mul_(0.2)
    return model


def test_two_steps_by_hand(start, learn):
    model = small_network()
    w = model.weight.detach().numpy().T.astype(np.float64).copy()
    state = start(model, SDAT(rho=0.3), penalties=(Quartic(),))
    for _ in range(2):
        g = task(w)
        before = np.mean((X @ w - Y) ** 2 / 2 + (X @ w) ** 4)
        w = w - 0.1 * (task(w + 0.3 * g / np.linalg.norm(g)) + penalty(w))
        assert learn(state, batch()).item() == pytest.approx(before, rel=1e-5)
        np.testing.assert_allclose(model.weight.detach().numpy().T, w, rtol=1e-4)


def test_without_a_penalty_it_is_sam(start, learn):
    one, two = small_network(), small_network()
    learn(start(one, SDAT(rho=0.3)), batch())
    learn(start(two, SAM(rho=0.3)), batch())
    torch.testing.assert_close(one.weight, two.weight)


def test_only_the_first_pass_updates_running_statistics(start, learn):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    learn(start(model, SDAT(), penalties=(Quartic(),)), batch())
    assert model[1].num_batches_tracked == 1
