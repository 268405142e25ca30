"""Guidance raises the share of draws that an independent classifier takes for the wanted class, the more the larger
its scale (arxiv:2105.05233, section 4.3): a small diffusion of scikit-learn's digits 0 to 4, without labels."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import Batch, Context, DataSpec
from assay.plugins.predict.guided_diffusion import GuidedDiffusion
from assay.plugins.train.augment.diffusion_noise import DiffusionNoise
from assay.plugins.train.model.time_mlp import TimeMLP
from assay.plugins.train.objective.ddpm import DDPM

CLASSES, NOISE_STEPS, DRAWS = 5, 100, 250
SPEC = DataSpec(problem="generation", shape=(1, 8, 8), low=(-2.0,), high=(2.0,))
SEEDS = (0, 1, 2)


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    kept = found.target < CLASSES
    x = torch.from_numpy(found.images[kept][:, None] / 4 - 2).float()
    return x, torch.from_numpy(found.target[kept])


def context(seed: int, **models: nn.Module) -> Context:
    return Context(rng=torch.Generator().manual_seed(seed), spec=SPEC, seed=seed, models=models)


def classifier(x: Tensor, y: Tensor, seed: int, noisy: bool) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, CLASSES))
    optimizer, ctx = torch.optim.Adam(model.parameters(), 2e-3), context(seed)
    for _ in range(600):
        at = torch.randint(len(x), (128,))
        batch = Batch({"index": at, "x": x[at], "y": y[at]})
        if noisy:
            batch = DiffusionNoise(noise_steps=NOISE_STEPS).augment(batch, ctx)
        optimizer.zero_grad()
        F.cross_entropy(model(batch.x), batch.y).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


@functools.cache
def trained(seed: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The diffusion, its guide (which saw one half of the data), and the judge (which saw the other)."""
    x, y = digits()
    half = np.random.default_rng(seed).permutation(len(x))
    mine, others = half[: len(x) // 2], half[len(x) // 2 :]
    torch.manual_seed(seed)
    ctx = context(seed)
    model = TimeMLP(width=256, depth=3).build(SPEC, ctx)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(2000):
        at = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        DDPM(noise_steps=NOISE_STEPS).loss(model, Batch({"index": at, "x": x[at]}), ctx).mean().backward()
        optimizer.step()
    guide = classifier(x[mine], y[mine], seed, noisy=True)
    return model.eval().requires_grad_(False), guide, classifier(x[others], y[others], seed + 100, noisy=False)


def share(seed: int, scale: float, sampler: str) -> float:
    """The share of draws that the judge takes for the class they were drawn for."""
    model, guide, judge = trained(seed)
    method = GuidedDiffusion(guide="guide", scale=scale, sampler=sampler, steps=50, noise_steps=NOISE_STEPS)  # type: ignore[arg-type]
    batch = Batch({"index": torch.arange(DRAWS), "x": torch.zeros(DRAWS, 1, 8, 8)})
    drawn = method.predict(model, batch, context(seed, guide=guide))
    return float((judge(drawn).argmax(1) == batch.index % CLASSES).float().mean())


@pytest.mark.claim
@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_guidance_draws_the_wanted_class_the_more_the_stronger(sampler: str) -> None:
    for seed in SEEDS:
        found = [share(seed, scale, sampler) for scale in (0.0, 1.0, 4.0)]
        assert found[0] < 0.35  # chance is 0.2
        assert found[1] > found[0] + 0.25
        assert found[2] > found[1]
