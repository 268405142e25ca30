"""The critic's estimate follows the true distance between draws and data (arxiv:1701.07875, figure 3): eight
Gaussians on a ring."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from assay.plugins.contract import Batch, Bound, Context, Data, DataSpec, Terms
from assay.plugins.train.learner._gan import noise_like, wasserstein
from assay.plugins.train.learner.wgan import WGAN
from assay.plugins.train.model.gan import GAN
from assay.plugins.train.objective.flow_matching import FlowMatching
from assay.plugins.train.optimizer.rmsprop import RMSprop
from assay.plugins.train.schedule.constant import Constant

SPEC = DataSpec(problem="generation", modality="features", shape=(2,))
STEPS, LOOKS, POINTS = 8000, 20, 256


def ring(count: int, rng: np.random.Generator) -> torch.Tensor:
    angle = rng.integers(0, 8, count) * np.pi / 4
    points = 2 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.05 * rng.standard_normal((count, 2))
    return torch.from_numpy(points).float()


def distance(a: np.ndarray, b: np.ndarray) -> float:
    cost = np.linalg.norm(a[:, None] - b[None], axis=2)
    return float(cost[linear_sum_assignment(cost)].mean())


def course(seed: int) -> tuple[list[float], list[float]]:
    """The critic's estimate and the true distance at evenly spaced moments of a training."""
    torch.manual_seed(seed)
    rng, ctx = np.random.default_rng(seed), Context(rng=torch.Generator().manual_seed(seed), spec=SPEC)
    model: nn.Module = GAN(width=64, depth=2).build(SPEC, ctx)
    bound = Bound(FlowMatching(), ctx, "objective")
    terms = Terms(bound, [], [], RMSprop(lr=5e-4), Constant(), total_steps=STEPS)
    learner = WGAN(n_critic=10, clip=0.1)
    state = learner.init(model, terms, Data(SPEC, {}), ctx)
    estimates, truths = [], []
    for step in range(STEPS):
        ctx.step = step
        learner.step(state, Batch({"index": torch.arange(64), "x": ring(64, rng)}), ctx)
        if (step + 1) % (STEPS // LOOKS) == 0:
            real = ring(POINTS, rng)
            with torch.no_grad():
                fake = model(noise_like(real, ctx))
                estimates.append(float(wasserstein(model.get_submodule("critic"), real, fake)))
            truths.append(distance(fake.numpy(), real.numpy()))
    return estimates, truths


@pytest.mark.claim
@pytest.mark.slow
def test_the_critics_estimate_follows_the_true_distance() -> None:
    correlations = []
    for seed in range(3):
        estimates, truths = course(seed)
        correlations.append(float(np.corrcoef(estimates, truths)[0, 1]))
        assert np.mean(truths[-5:]) < 0.9 * np.mean(truths[:5])
        assert np.mean(estimates[-5:]) < 0.5 * np.mean(estimates[:5])
    assert min(correlations) > 0.5, correlations  # found: 0.72, 0.79, 0.75; the third run stops improving half-way
