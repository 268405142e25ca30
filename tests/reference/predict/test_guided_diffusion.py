"""Guided sampling: steps worked in numpy, and distributions that are known in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Batch, Context, DataSpec, NotAuditable
from assay.plugins.predict.guided_diffusion import GuidedDiffusion, kept_steps

STEPS = 200
CENTRES, WIDTH = (-2.0, 1.0), 0.4
SPEC = DataSpec(problem="generation", modality="features", shape=(1,))


def bars(steps: int) -> np.ndarray:
    beta = np.minimum(np.linspace(1e-4, 0.02, steps) * 1000 / steps, 0.999)
    return np.concatenate([[1.0], np.cumprod(1 - beta)])


class MixtureNoise(nn.Module):
    """E[noise | x_t] for an even mixture of two normals: -sqrt(1 - alpha_bar) times the score."""

    def __init__(self, only: int | None = None):
        super().__init__()
        self.centres = CENTRES if only is None else (CENTRES[only],)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        level = torch.from_numpy(bars(STEPS))[(t * STEPS).round().long()][:, None]
        x = x.double()
        variance = level * WIDTH**2 + 1 - level
        gaps = torch.stack([level.sqrt() * c - x for c in self.centres])
        share = torch.softmax(-gaps.square() / (2 * variance), dim=0)
        return (-(1 - level).sqrt() * (share * gaps).sum(0) / variance).float()


class MixtureClass(nn.Module):
    """log p(component | x_t), with the time guessed by nobody: told from outside."""

    level = 1.0

    def forward(self, x: Tensor) -> Tensor:
        variance = self.level * WIDTH**2 + 1 - self.level
        return torch.cat([-(x - self.level**0.5 * c).square() / (2 * variance) for c in CENTRES], dim=1)


class Telling(MixtureNoise):
    """The noise model, which tells the guide its time: it is asked just before it."""

    def __init__(self, guide: MixtureClass):
        super().__init__()
        self.guide = [guide]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.guide[0].level = float(bars(STEPS)[round(float(t[0]) * STEPS)])
        return super().forward(x, t)


def context(**models: nn.Module) -> Context:
    return Context(rng=torch.Generator(), spec=SPEC, seed=3, models=models)


def draw(count: int, model: nn.Module, guide: nn.Module | None = None, **fields: Any) -> np.ndarray:
    batch = Batch({"index": torch.arange(count), "x": torch.zeros(count, 1)})
    values = {"steps": STEPS, "noise_steps": STEPS, "clip": False, **fields}
    method = GuidedDiffusion(guide="guide" if guide is not None else "", **values)
    return method.predict(model, batch, context(**({} if guide is None else {"guide": guide}))).numpy().ravel()


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_without_a_guide_the_draws_are_the_data(sampler: str) -> None:
    found = draw(3000, MixtureNoise(), sampler=sampler)
    high = found > -0.5
    assert high.mean() == pytest.approx(0.5, abs=0.03)
    for centre, part in zip(CENTRES, (found[~high], found[high])):
        assert part.mean() == pytest.approx(centre, abs=0.03)
        assert part.std() == pytest.approx(WIDTH, abs=0.04)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_with_the_true_posterior_at_scale_1_the_draws_are_the_wanted_component(sampler: str) -> None:
    guide = MixtureClass()
    found = draw(3000, Telling(guide), guide, scale=1.0, classes=(1,), sampler=sampler)
    assert (found > -0.5).mean() > 0.985
    assert found[found > -0.5].mean() == pytest.approx(CENTRES[1], abs=0.04)
    assert found[found > -0.5].std() == pytest.approx(WIDTH, abs=0.05)


def test_classes_are_wanted_in_turn() -> None:
    guide = MixtureClass()
    found = draw(400, Telling(guide), guide, scale=1.0)
    assert (found[0::2] < -0.5).mean() > 0.97
    assert (found[1::2] > -0.5).mean() > 0.97


class Fixed(nn.Module):
    """Noise 0.3 x + t."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.3 * x + t[:, None]


class Slope(nn.Module):
    """Logits (0, x): the gradient of log p(1 | x) is 1 - sigmoid(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), x], dim=1)


def worked(sampler: str, scale: float, low: float, high: float) -> np.ndarray:
    """Three draws by a loop over numbers, from the papers' formulas."""
    ctx, level, out = context(), bars(4), []
    for index in range(3):
        rng = ctx.generator(index)
        x = float(torch.randn(1, generator=rng))
        for i, j in ((4, 2), (2, 1), (1, 0)):  # of 4 steps: round(1, 2.5, 4)
            a, b = level[i], level[j]
            noise, pull = 0.3 * x + i / 4, scale * (1 - 1 / (1 + np.exp(-x)))
            if sampler == "ddim":
                noise -= np.sqrt(1 - a) * pull
                x0 = np.clip((x - np.sqrt(1 - a) * noise) / np.sqrt(a), low, high)
                x = np.sqrt(b) * x0 + np.sqrt(1 - b) * (x - np.sqrt(a) * x0) / np.sqrt(1 - a)
            else:
                x0 = np.clip((x - np.sqrt(1 - a) * noise) / np.sqrt(a), low, high)
                alpha = a / b
                mean = np.sqrt(b) * (1 - alpha) / (1 - a) * x0 + np.sqrt(alpha) * (1 - b) / (1 - a) * x
                variance = (1 - alpha) * (1 - b) / (1 - a)
                fresh = float(torch.randn(1, generator=rng))
                x = mean + variance * pull + np.sqrt(variance) * fresh
        out.append(x)
    return np.array(out)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
@pytest.mark.parametrize("scale", [0.0, 2.5])
@pytest.mark.parametrize("clip", [True, False])
def test_steps_by_hand(sampler: str, scale: float, clip: bool) -> None:
    spec = DataSpec(problem="generation", modality="image", shape=(1,), low=(-0.5,), high=(0.4,))
    method = GuidedDiffusion(
        guide="guide", scale=scale, classes=(1,), sampler=sampler, steps=3, noise_steps=4, clip=clip
    )  # type: ignore[arg-type]
    ctx = Context(rng=torch.Generator(), spec=spec, seed=3, models={"guide": Slope()})
    batch = Batch({"index": torch.arange(3), "x": torch.zeros(3, 1)})
    low, high = (-0.5, 0.4) if clip else (-np.inf, np.inf)
    found = method.predict(Fixed(), batch, ctx).numpy().ravel()
    np.testing.assert_allclose(found, worked(sampler, scale, low, high), rtol=2e-4, atol=1e-5)


def test_visited_steps() -> None:
    assert kept_steps(4, 4) == [4, 3, 2, 1]
    assert kept_steps(1000, 5) == [1000, 750, 500, 251, 1]
    assert kept_steps(1000, 1) == [1000]
    assert kept_steps(4, 3) == [4, 2, 1]


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(BadInput, match=r"predict.classes: \[5\] are not all classes of 'guide', 0..1"):
        draw(2, Fixed(), Slope(), classes=(5,))
    with pytest.raises(BadInput, match="more than the diffusion's noise_steps"):
        draw(2, Fixed(), steps=300)
    with pytest.raises(NotAuditable, match="takes no time"):
        draw(2, nn.Linear(1, 1))
