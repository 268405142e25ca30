"""The forward process against its sums, and the loss against a network that knows the answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Batch, Context, DataSpec
from assay.plugins.train.model.dncnn import DnCNN
from assay.plugins.train.objective._residual_diffusion import STEPS, deviation, share
from assay.plugins.train.objective.rddm import RDDM, state_at

SPEC = DataSpec(problem="restoration", shape=(2, 4, 4), low=(-1.0, 0.0), high=(1.0, 4.0), scale=(2.0, 4.0))


def test_the_sums_of_the_schedules() -> None:
    i = np.arange(1, STEPS + 1)
    alphas, betas2 = i[::-1] / i.sum(), 0.3**2 * i / i.sum()
    t = torch.arange(1, STEPS + 1, dtype=torch.float64)
    np.testing.assert_allclose(share(t).numpy(), alphas.cumsum(), rtol=1e-12)
    np.testing.assert_allclose(deviation(t, 0.3).numpy(), np.sqrt(betas2.cumsum()), rtol=1e-12)
    assert float(share(torch.tensor(0.0))) == float(deviation(torch.tensor(0.0), 0.3)) == 0.0


def test_a_state_is_the_sum_of_its_steps() -> None:
    """I_t = I_{t-1} + alpha_t residual + beta_t noise_t: mean and variance of many walks."""
    clean, degraded = torch.tensor([[0.2]]).double(), torch.tensor([[1.0]]).double()
    walk = np.full(4000, 0.2)
    rng, total = np.random.default_rng(0), STEPS * (STEPS + 1) / 2
    for i in range(1, 401):
        walk += (STEPS + 1 - i) / total * 0.8 + 0.5 * np.sqrt(i / total) * rng.standard_normal(4000)
    t = torch.tensor([400.0])
    assert float(state_at(clean, degraded, torch.zeros(1, 1), t, 0.5)) == pytest.approx(walk.mean(), abs=0.01)
    assert float(deviation(t, 0.5)) == pytest.approx(walk.std(), rel=0.03)


class Knows(nn.Module):
    """Gives the true residual plus `off`, and the noise that the state holds plus twice that."""

    def __init__(self, clean: Tensor, off: float, noise: bool):
        super().__init__()
        self.off = nn.Parameter(torch.tensor(off))
        self.clean, self.noise, self.times = clean, noise, []  # type: ignore[var-annotated]

    def forward(self, x: Tensor, state: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        assert state is not None
        assert t is not None
        self.times += (t * STEPS).tolist()
        scale = torch.tensor([2.0, 4.0]).view(1, 2, 1, 1)
        residual = x - self.clean
        if not self.noise:
            return residual + scale * self.off
        a, b = share(t * STEPS).view(-1, 1, 1, 1), deviation(t * STEPS, 0.1).view(-1, 1, 1, 1)
        noise = (state - self.clean - a * residual) / (b * scale)
        return torch.cat([residual + scale * self.off, noise + 2 * self.off], dim=1)


def batch(count: int) -> Batch:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, count, 2, 4, 4, generator=rng)
    return Batch({"index": torch.arange(count), "x": x, "y": y})


@pytest.mark.parametrize(("noise", "norm", "expected"), [(False, "l1", 0.5), (False, "l2", 0.25), (True, "l1", 1.5)])
def test_the_loss_in_pixel_units(noise: bool, norm: str, expected: float) -> None:
    given = batch(50)
    ctx = Context(rng=torch.Generator().manual_seed(0), spec=SPEC)
    model = Knows(given.y, 0.5, noise)
    losses = RDDM(noise=0.1, norm=norm).loss(model, given, ctx)  # type: ignore[arg-type]
    torch.testing.assert_close(losses, torch.full((50,), expected), atol=2e-3, rtol=0)


def test_times_are_uniform_and_new_each_step() -> None:
    given, ctx = batch(400), Context(rng=torch.Generator().manual_seed(0), spec=SPEC)
    model = Knows(given.y, 0.0, False)
    RDDM().loss(model, given, ctx)
    first = list(model.times)
    RDDM().loss(model, given, ctx)
    assert min(first) >= 1
    assert max(first) <= STEPS
    assert all(abs(t - round(t)) < 1e-3 for t in first)
    assert abs(np.mean(first) - 500) < 50
    assert model.times[400:] != first


def test_a_network_without_time_is_refused() -> None:
    ctx = Context(rng=torch.Generator(), spec=SPEC)
    with pytest.raises(BadInput, match="rddm_unet does"):
        RDDM().init(DnCNN().build(SPEC, ctx), None, ctx)  # type: ignore[arg-type]
