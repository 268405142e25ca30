"""The solvers on a linear equation whose steps are known polynomials of a matrix, and their orders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import Tensor, nn

from assay.plugins.contract import Batch, Context, DataSpec
from assay.plugins.predict.ode_sampler import OdeSampler, solve

A = np.array([[-1.0, 2.0], [-0.5, 0.3]])


def linear(x: Tensor, t: float) -> Tensor:
    return x @ torch.from_numpy(A).T


def powers(order: int, h: float) -> np.ndarray:
    """The Taylor polynomial of exp(h A)."""
    total, term = np.eye(2), np.eye(2)
    for i in range(1, order + 1):
        term = term @ (h * A) / i
        total = total + term
    return total


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_steps_on_a_linear_equation_are_taylor_polynomials(solver: str, order: int) -> None:
    x = torch.tensor([[1.0, -2.0], [0.3, 0.4]], dtype=torch.float64)
    found = solve(linear, x, 5, solver).numpy()  # type: ignore[arg-type]
    expected = x.numpy() @ np.linalg.matrix_power(powers(order, 0.2), 5).T
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    if solver == "rk4":
        np.testing.assert_allclose(found, x.numpy() @ expm(A).T, rtol=1e-4)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_the_error_falls_with_the_solvers_order_where_time_matters(solver: str, order: int) -> None:
    def velocity(x: Tensor, t: float) -> Tensor:  # x(1) = x(0) exp(e - 1)
        return float(np.exp(t)) * x

    x = torch.ones(1, 1, dtype=torch.float64)
    exact = np.exp(np.e - 1)
    errors = [abs(float(solve(velocity, x, n, solver)) - exact) for n in (16, 32)]  # type: ignore[arg-type]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)


class Field(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(x),)
        return t.reshape(-1, 1, 1) * torch.ones_like(x)


def test_a_draw_starts_at_its_own_noise() -> None:
    ctx = Context(rng=torch.Generator(), spec=DataSpec(problem="generation", shape=(2, 3)), seed=4)
    batch = Batch({"index": torch.tensor([7, 2]), "x": torch.zeros(2, 2, 3)})
    found = OdeSampler(steps=4, solver="midpoint").predict(Field(), batch, ctx)
    torch.testing.assert_close(found, ctx.normal(batch.index, (2, 3)) + 0.5)  # the integral of t
