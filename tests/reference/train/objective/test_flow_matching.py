"""Flow matching: the target is the path's derivative, and the minimum is the closed-form velocity of Gaussian data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Context, DataSpec
from assay.plugins.train.objective.flow_matching import FlowMatching, on_path

MEAN, DEVIATION = 1.5, 0.5


def context(shape: tuple[int, ...]) -> Context:
    return Context(rng=torch.Generator().manual_seed(0), spec=DataSpec(problem="generation", shape=shape))


class Seen(nn.Module):
    """Answers zero, and keeps what it was asked."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.x, self.t = x, t
        return torch.zeros_like(x)


def test_the_velocity_is_the_derivative_of_the_path() -> None:
    noise, x = torch.randn(4, 2, 3, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)
    t, h = torch.tensor([0.0, 0.3, 0.7, 1.0], dtype=torch.float64), 1e-6
    ahead, behind = on_path(noise, x, t + h, 0.1)[0], on_path(noise, x, t - h, 0.1)[0]
    point, velocity = on_path(noise, x, t, 0.1)
    torch.testing.assert_close(velocity, (ahead - behind) / (2 * h))
    torch.testing.assert_close(point[0], noise[0])
    torch.testing.assert_close(point[3], x[3] + 0.1 * noise[3])


def test_the_loss_by_hand_from_what_the_network_was_asked() -> None:
    sigma = 0.2
    x = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    model = Seen()
    found = FlowMatching(sigma_min=sigma).loss(model, Batch({"index": torch.arange(5), "x": x}), context((1, 4, 4)))
    for i in range(5):
        t = float(model.t[i])
        noise = (model.x[i] - t * x[i]) / (1 - (1 - sigma) * t)
        assert float(found[i]) == pytest.approx(float((x[i] - (1 - sigma) * noise).square().mean()), rel=1e-4)


class ClosedForm(nn.Module):
    """E[x1 - (1 - s) x0 | x_t] for data N(MEAN, DEVIATION^2), times a weight, plus another."""

    def __init__(self, sigma: float):
        super().__init__()
        self.sigma = sigma
        self.factor, self.shift = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        scale = 1 - (1 - self.sigma) * t
        variance = scale**2 + t**2 * DEVIATION**2
        slope = (t * DEVIATION**2 - (1 - self.sigma) * scale) / variance
        return self.factor * (MEAN + slope * (x - t * MEAN)) + self.shift


def slopes(trained: float, assumed: float) -> list[float]:
    """Gradient of the mean loss in the two weights where the network has the velocity for `assumed`."""
    rng = torch.Generator().manual_seed(1)
    x = MEAN + DEVIATION * torch.randn(200_000, 1, generator=rng)
    model = ClosedForm(assumed)
    batch = Batch({"index": torch.arange(len(x)), "x": x})
    FlowMatching(sigma_min=trained).loss(model, batch, context((1,))).mean().backward()
    return [float(p.grad) for p in model.parameters()]


def test_the_closed_form_velocity_is_the_minimum() -> None:
    assert slopes(0.1, 0.1) == pytest.approx([0, 0], abs=0.03)
    assert abs(slopes(0.1, 0.5)[0]) > 0.1


def test_trained_on_gaussian_data_the_sampler_draws_them() -> None:
    from assay.plugins.predict.ode_sampler import OdeSampler

    batch = Batch({"index": torch.arange(4000), "x": torch.zeros(4000, 1)})
    drawn = OdeSampler(steps=40, solver="rk4").predict(ClosedForm(1e-5).requires_grad_(False), batch, context((1,)))
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(drawn.std()) == pytest.approx(DEVIATION, abs=0.02)
