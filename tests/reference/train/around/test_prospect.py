"""Prospect: the weights against a quadratic program, and steps worked by hand in numpy."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize
from torch import nn

from assay.plugins.contract import BadInput, Batch, Bound, Context, Data, DataSpec, Split, State, Terms
from assay.plugins.train.around.prospect import Prospect, risk_spectrum, robust_weights
from assay.plugins.train.learner.backprop import Backprop
from assay.plugins.train.optimizer.sgd import SGD
from assay.plugins.train.schedule.constant import Constant

DENSITIES = {
    ("superquantile", 0.35): lambda t: (t >= 0.35) / 0.65,
    ("extremile", 2.5): lambda t: 2.5 * t**1.5,
    ("exponential", 1.7): lambda t: 1.7 * np.exp(1.7 * t) / (np.exp(1.7) - 1),
}


@pytest.mark.parametrize(("kind", "parameter"), DENSITIES)
def test_a_spectrum_integrates_its_density(kind, parameter):
    density = DENSITIES[kind, parameter]
    expected = [quad(density, i / 7, (i + 1) / 7, points=[0.35])[0] for i in range(7)]
    found = risk_spectrum(kind, parameter, 7)
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert found.sum() == pytest.approx(1)
    assert (np.diff(found) >= -1e-12).all()


def by_program(losses: np.ndarray, spectrum: np.ndarray, cost: float) -> np.ndarray:
    """The hull of all orders of the spectrum: no k weights may exceed its k largest values together."""
    n = len(losses)
    largest = np.cumsum(np.sort(spectrum)[::-1])
    limits = [
        {"type": "ineq", "fun": lambda q, s=list(s): largest[len(s) - 1] - q[s].sum()}
        for k in range(1, n)
        for s in combinations(range(n), k)
    ]
    limits.append({"type": "eq", "fun": lambda q: q.sum() - 1})
    found = minimize(
        lambda q: cost * n / 2 * np.sum((q - 1 / n) ** 2) - q @ losses,
        np.full(n, 1 / n),
        constraints=limits,
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return found.x


@pytest.mark.parametrize("cost", [0.02, 0.3, 5.0])
@pytest.mark.parametrize(("kind", "parameter"), DENSITIES)
def test_the_weights_solve_the_quadratic_program(kind, parameter, cost):
    losses = np.random.default_rng(int(100 * cost)).gamma(1.0, size=5)
    losses[3] = losses[1]
    spectrum = risk_spectrum(kind, parameter, 5)
    found = robust_weights(losses, spectrum, cost)
    np.testing.assert_allclose(found, by_program(losses, spectrum, cost), atol=1e-5)


def test_limits_of_the_weights():
    losses, spectrum = np.array([3.0, 1.0, 2.0, 5.0]), np.array([0.0, 0.0, 0.5, 0.5])
    np.testing.assert_allclose(robust_weights(losses, spectrum, 1e9), np.full(4, 0.25), atol=1e-6)
    np.testing.assert_allclose(robust_weights(losses, spectrum, 1e-6), [0.5, 0, 0, 0.5], atol=1e-12)


RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(6, 2)).astype(np.float32), RNG.normal(size=(6, 1)).astype(np.float32)
SPEC = DataSpec(problem="regression", modality="features", shape=(2,), outputs=1)


def training(model: nn.Module, objective: type, method: Prospect) -> State:
    def bind(one: object, name: str) -> Bound:
        return Bound(one, Context(rng=torch.Generator().manual_seed(0), spec=SPEC), name)

    around = [bind(method, "around.0")]
    terms = Terms(bind(objective(), "objective"), [], around, SGD(lr=0.1, momentum=0.0), Constant(), total_steps=4)
    data = Data(SPEC, {"train": Split({"x": X, "y": Y})})
    return Backprop().init(model, terms, data, around[0].ctx)


def test_steps_by_hand(half_square):
    torch.manual_seed(0)
    model = nn.Linear(2, 1, bias=False)
    method = Prospect(level=0.5, shift_cost=0.4)
    state = training(model, half_square, method)
    w = model.weight.detach().numpy().ravel().astype(float)
    spectrum = np.array([0, 0, 0, 1, 1, 1]) / 3

    def losses_and_gradients(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        error = X @ w - Y.ravel()
        return error**2 / 2, error[:, None] * X

    losses, table = losses_and_gradients(w)
    q = robust_weights(losses, spectrum, 0.4)
    rho = q.copy()
    for batch in ([0, 3], [1, 2, 5], [3, 4], [0, 3]):
        now, g = losses_and_gradients(w)
        v = np.mean([6 * q[i] * g[i] - 6 * rho[i] * table[i] for i in batch], axis=0) + rho @ table
        w = w - 0.1 * v
        losses[batch], table[batch], rho[batch] = now[batch], g[batch], q[batch]
        q = robust_weights(losses, spectrum, 0.4)
        at = torch.tensor(batch)
        Backprop().step(
            state, Batch({"index": at, "x": torch.tensor(X)[at], "y": torch.tensor(Y)[at]}), state.terms.objective.ctx
        )
        np.testing.assert_allclose(model.weight.detach().numpy().ravel(), w, rtol=1e-4, atol=1e-6)
    own = state.own["around.0"]
    np.testing.assert_allclose(own.q, q, atol=1e-6)
    np.testing.assert_allclose(own.total, rho @ table, atol=1e-5)


def test_an_example_twice_in_a_batch_counts_once_in_the_tables(half_square):
    torch.manual_seed(0)
    state = training(nn.Linear(2, 1), half_square, Prospect())
    at = torch.tensor([2, 2, 4])
    for _ in range(2):
        batch = Batch({"index": at, "x": torch.tensor(X)[at], "y": torch.tensor(Y)[at]})
        Backprop().step(state, batch, state.terms.objective.ctx)
    own = state.own["around.0"]
    np.testing.assert_allclose(own.total, own.rho.float() @ own.gradients, atol=1e-6)


def test_running_statistics_and_tables_at_the_start(half_square):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    state = training(model, half_square, Prospect())
    batch = Batch({"index": torch.arange(3), "x": torch.tensor(X)[:3], "y": torch.tensor(Y)[:3]})
    Backprop().step(state, batch, state.terms.objective.ctx)
    assert model[1].num_batches_tracked == 1  # the filling pass leaves them alone
    assert state.own["around.0"].filled
    assert (state.own["around.0"].losses > 0).all()


def test_a_table_that_is_too_large_is_refused(half_square):
    with pytest.raises(BadInput, match="6 examples for 30000 parameters"):
        training(nn.Linear(2, 10000), half_square, Prospect(memory=1e-4))
