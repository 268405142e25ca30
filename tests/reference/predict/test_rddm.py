"""The reverse process where residual and noise are known, against DDIM, and step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Context, DataSpec
from assay.plugins.predict.rddm import RDDM, step_back
from assay.plugins.train.objective._residual_diffusion import STEPS, deviation, share

SPEC = DataSpec(problem="restoration", shape=(1, 4, 4), low=(-1.0,), high=(1.0,), scale=(2.0,))


class Knows(nn.Module):
    """Gives the true residual, and with `noise` the noise that is in the state."""

    def __init__(self, clean: Tensor, noise: bool):
        super().__init__()
        self.clean, self.noise = clean, noise

    def forward(self, x: Tensor, state: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        assert state is not None
        assert t is not None
        residual = x - self.clean
        a, b = share(t * STEPS).view(-1, 1, 1, 1), deviation(t * STEPS, 0.3).view(-1, 1, 1, 1)
        noise = (state - self.clean - a * residual) / (2 * b)
        return torch.cat([residual, noise], dim=1) if self.noise else residual


@pytest.mark.parametrize("steps", [1, 3, 50])
@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_with_residual_and_noise_known_the_clean_image_comes_back(steps: int, noise: bool, eta: float) -> None:
    rng = torch.Generator().manual_seed(0)
    x, clean = torch.rand(2, 5, 1, 4, 4, generator=rng, dtype=torch.float64)
    ctx = Context(rng=rng, spec=SPEC, seed=3)
    found = RDDM(steps=steps, noise=0.3, eta=eta).predict(
        Knows(clean, noise), Batch({"index": torch.arange(5), "x": x}), ctx
    )
    torch.testing.assert_close(found, clean, atol=1e-6, rtol=0)


def test_without_a_degraded_image_a_step_is_ddims() -> None:
    """I_in = 0: with 1 - a_t = sqrt(alpha_t) and b_t = sqrt(1 - alpha_t) the step is DDIM's, sigma included."""
    rng = np.random.default_rng(0)
    x0, eps, fresh = (torch.from_numpy(v) for v in rng.normal(size=(3, 2, 1, 4, 4)))
    now, then = 0.3, 0.7  # DDIM's cumulative alphas, of a time and an earlier one
    state = now**0.5 * x0 + (1 - now) ** 0.5 * eps
    levels = [(torch.tensor(1 - v**0.5).double(), torch.tensor((1 - v) ** 0.5).double()) for v in (now, then)]
    plain = step_back(state, -x0, eps, levels[0], levels[1], 0.0, fresh)
    torch.testing.assert_close(plain, then**0.5 * x0 + (1 - then) ** 0.5 * eps)
    sigma2 = ((1 - now) - (1 - then)) * (1 - then) / (1 - now)
    noisy = step_back(state, -x0, eps, levels[0], levels[1], 1.0, fresh)
    torch.testing.assert_close(noisy, then**0.5 * x0 + (1 - then - sigma2) ** 0.5 * eps + sigma2**0.5 * fresh)


def test_two_steps_worked_by_hand() -> None:
    """A network that always says 0.4 for the residual: noise follows from the state."""

    class Constant(nn.Module):
        def forward(self, x: Tensor, state: Tensor | None = None, t: Tensor | None = None) -> Tensor:
            return torch.full_like(x, 0.4)

    ctx = Context(rng=torch.Generator(), spec=SPEC, seed=5)
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    draw = 2 * ctx.normal(torch.tensor([0]), (3, 1, 4, 4))[:, 0].double()
    found = RDDM(steps=2, noise=0.1).predict(Constant(), Batch({"index": torch.tensor([0]), "x": x}), ctx)
    a, b = 500 * (2001 - 500) / (1000 * 1001), 0.1 * (500 * 501 / (1000 * 1001)) ** 0.5
    start = 0.1 * draw  # a = 1, so the noise in it is the draw itself
    middle = start - (1 - a) * 0.4 - (0.1 - b) * draw
    noise = (middle - (a - 1) * 0.4) / b
    torch.testing.assert_close(found, middle - a * 0.4 - b * noise)
