"""DDPM's simple loss: by hand from what the network was asked, and at its closed-form minimum."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Context, DataSpec
from assay.plugins.train.objective.ddpm import DDPM

STEPS = 20


def bar(i: int) -> float:
    """alpha_bar of the linear schedule after step i of STEPS, by a loop."""
    product = 1.0
    for j in range(i):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * j / (STEPS - 1)) * 1000 / STEPS
    return max(product, 0.001)  # the last variance is cut at 0.999


def context() -> Context:
    return Context(rng=torch.Generator().manual_seed(0), spec=DataSpec(problem="generation", shape=(3,)))


class Seen(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.x, self.t = x, t
        return torch.zeros_like(x)


def test_the_loss_by_hand_from_what_the_network_was_asked() -> None:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(3))
    model = Seen()
    found = DDPM(noise_steps=STEPS).loss(model, Batch({"index": torch.arange(60), "x": x}), context())
    steps = (model.t * STEPS).round().long()
    torch.testing.assert_close(model.t, steps / STEPS)
    assert set(steps.tolist()) <= set(range(1, STEPS + 1))
    assert len(set(steps.tolist())) > 12
    for i in range(60):
        level = bar(int(steps[i]))
        if level <= 0.01:
            continue
        noise = (model.x[i] - level**0.5 * x[i]) / (1 - level) ** 0.5
        assert float(found[i]) == pytest.approx(float(noise.square().mean()), rel=1e-3)


class ClosedForm(nn.Module):
    """E[noise | x_t] for standard normal data: sqrt(1 - alpha_bar) x_t; times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))
        self.bars = torch.tensor([bar(i) for i in range(1, STEPS + 1)])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        level = self.bars[(t * STEPS).round().long() - 1]
        return self.factor * (1 - level).sqrt()[:, None] * x


def test_the_expected_noise_is_the_minimum() -> None:
    x = torch.randn(100_000, 3, generator=torch.Generator().manual_seed(1))
    model = ClosedForm()
    loss = DDPM(noise_steps=STEPS).loss(model, Batch({"index": torch.arange(len(x)), "x": x}), context()).mean()
    loss.backward()
    assert float(model.factor.grad) == pytest.approx(0, abs=0.01)  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(float(model.bars.mean()), abs=0.01)  # the noise's variance given x_t
