"""Noise schedules and draws of diffusions against the papers' formulas in plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins._diffusion import (
    alpha_bars,
    betas,
    noise_and_uniform,
    noised,
    random_step,
    require_time,
)
from assay.plugins.contract import BadInput, takes_time


def test_linear_schedule_of_ho_et_al() -> None:
    found = betas("linear", 1000).numpy()
    np.testing.assert_allclose(found[[0, 999]], [1e-4, 0.02], rtol=1e-12)
    np.testing.assert_allclose(np.diff(found), (0.02 - 1e-4) / 999, rtol=1e-6)
    np.testing.assert_allclose(betas("linear", 100).numpy()[[0, 99]], [1e-3, 0.2], rtol=1e-12)
    bars, product = alpha_bars("linear", 1000).numpy(), 1.0
    for i in range(1000):
        product *= 1 - found[i]
        assert bars[i] == pytest.approx(product, rel=1e-9)


def test_cosine_schedule_of_nichol_and_dhariwal() -> None:
    steps, s = 50, 0.008

    def f(t: int) -> float:
        return math.cos((t / steps + s) / (1 + s) * math.pi / 2) ** 2

    expected = [min(0.999, 1 - (f(t) / f(0)) / (f(t - 1) / f(0))) for t in range(1, steps + 1)]
    np.testing.assert_allclose(betas("cosine", steps).numpy(), expected, rtol=1e-8)
    assert betas("cosine", steps)[-1] == 0.999


def test_a_noised_example_by_hand() -> None:
    x, noise = torch.tensor([[2.0, 0.0], [1.0, -1.0]]), torch.tensor([[1.0, 1.0], [3.0, 0.0]])
    found = noised(x, noise, torch.tensor([0.36, 1.0]))
    torch.testing.assert_close(found, torch.tensor([[0.6 * 2 + 0.8, 0.8], [1.0, -1.0]]))


@pytest.mark.parametrize("shape", [(1, 8, 8), (2,), (3, 5, 7)])
def test_draws_are_standard_normal_and_do_not_depend_on_who_follows(shape: tuple[int, ...]) -> None:
    count = 60_000 // int(np.prod(shape))
    noise, uniform = noise_and_uniform(torch.zeros(count, *shape), torch.Generator().manual_seed(1))
    assert noise.shape == (count, *shape)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.05)
    fewer = noise_and_uniform(torch.zeros(3, *shape), torch.Generator().manual_seed(1))
    assert torch.equal(noise[:3], fewer[0])
    assert torch.equal(uniform[:3], fewer[1])


def test_every_step_is_as_likely() -> None:
    uniform = torch.arange(0, 1, 1 / 4000)
    counts = torch.bincount(random_step(uniform, 4), minlength=5).tolist()
    assert counts[0] == 0
    assert all(count == pytest.approx(1000, abs=1) for count in counts[1:])
    assert int(random_step(torch.tensor([1 - 1e-8]), 4)) == 4


def test_networks_of_a_time() -> None:
    class Timed(nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return x

    assert takes_time(Timed())
    assert not takes_time(nn.Linear(1, 1))
    with pytest.raises(BadInput, match="ddpm needs a network of inputs and times"):
        require_time(nn.Linear(1, 1), "ddpm")
