"""The learner's network against the best of many trained by gradient descent (arxiv:2201.01965): with nearly all gate
patterns, and with the default number of them."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins.contract import Batch, Bound, Context, Data, DataSpec, Split, Terms
from assay.plugins.train.learner.convex_relu_admm import ConvexReLUADMM, with_ones
from assay.plugins.train.objective.mse import MSE
from assay.plugins.train.optimizer.adamw import AdamW
from assay.plugins.train.schedule.constant import Constant

BETA, N, ITERATIONS = 0.05, 20, 1500
SPEC = DataSpec(problem="regression", modality="features", shape=(2,), outputs=1)


def regularised(hidden: torch.Tensor, out: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    error = (x @ hidden.mT).clamp_min(0) @ out[..., None] - y
    weights = hidden.square().sum(dim=(1, 2)) + out.square().sum(dim=1)
    return error.square().sum(dim=(1, 2)) / 2 + BETA * weights / 2


def by_descent(x: torch.Tensor, y: torch.Tensor, seed: int, nets: int = 20, units: int = 30) -> float:
    """The lowest regularised loss of networks trained from different starts."""
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(nets, units, x.shape[1], generator=rng, dtype=torch.float64) / 2
    out = torch.randn(nets, units, generator=rng, dtype=torch.float64) / 5
    hidden.requires_grad_()
    out.requires_grad_()
    optimizer = torch.optim.Adam([hidden, out], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3000)
    for _ in range(3000):
        optimizer.zero_grad()
        regularised(hidden, out, x, y).sum().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return float(regularised(hidden, out, x, y).min())


def problem(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Examples (N, 2) and their values (N, 1), of mean zero."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, 2))
    y = np.sin(2 * x[:, :1]) + np.abs(x[:, 1:]) + 0.1 * rng.normal(size=(N, 1))
    return x, y - y.mean()


def by_the_learner(x: np.ndarray, y: np.ndarray, seed: int, gates: int) -> float:
    """The regularised loss of the network that the learner ends in."""
    ctx = Context(rng=torch.Generator().manual_seed(seed), spec=SPEC)
    data = Data(SPEC, {"train": Split({"x": x, "y": y})})
    learner = ConvexReLUADMM(gates=gates, beta=BETA, rho=0.1)
    model = learner.apply(nn.Linear(2, 1), learner.fit(nn.Linear(2, 1), data, ctx))
    terms = Terms(Bound(MSE(), ctx, "objective"), [], [], AdamW(), Constant(), total_steps=ITERATIONS)
    state = learner.init(model, terms, data, ctx)
    for _ in range(ITERATIONS):
        learner.step(state, Batch({"index": torch.arange(N)}), ctx)
    hidden = torch.hstack([model.layers.linear1.weight, model.layers.linear1.bias[:, None]])
    with torch.no_grad():
        return float(regularised(*(w.double()[None] for w in (hidden, model.head.weight[0])), *rows(x, y)))


def rows(x: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return with_ones(torch.from_numpy(x)), torch.from_numpy(y)


@functools.cache
def best_by_descent(seed: int) -> float:
    return by_descent(*rows(*problem(seed)), seed)


def ratios(gates: int) -> list[float]:
    """The learner's loss as a share of descent's best, by seed."""
    return [by_the_learner(*problem(seed), seed, gates) / best_by_descent(seed) for seed in range(3)]


@pytest.mark.claim
@pytest.mark.slow
def test_no_descent_ends_lower_than_nearly_all_gates() -> None:
    # 2 (1 + 19 + 171) = 382 patterns at most: nearly all are found.
    found = ratios(350)
    assert max(found) < 1.005, found  # found: 1.0006 to 1.0008


@pytest.mark.claim
@pytest.mark.slow
def test_descent_ends_lower_than_the_default_number_of_gates() -> None:
    found = ratios(ConvexReLUADMM().gates)
    assert max(found) > 1.01, found  # found: 1.037, 1.002, 1.020
    assert max(found) < 1.1, found
