"""Goodfellow et al. 2015: no barrier from the initial to the trained weights; between two trainings there is one."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.plugins.contract import Context, DataSpec, Subject
from assay.plugins.evaluate.dynamics.linear_path import LinearPath
from assay.plugins.prepare.source.digits import Digits

DATA = Digits().load(Context(rng=torch.Generator(), spec=DataSpec(shape=())))


def trained(seed: int, epochs: int = 15) -> list[nn.Module]:
    """The initial and the trained network."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    first = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for index in torch.randperm(len(DATA.train)).split(64):
            batch = DATA.train.batch(index)
            optimizer.zero_grad()
            F.cross_entropy(model(batch.x), batch.y).backward()
            optimizer.step()
    return [first, model]


def path(models: list[nn.Module]) -> np.ndarray:
    """The losses on the line between two models."""
    kept = [(f"epoch-{i:05d}", m.eval()) for i, m in enumerate(models)]
    subject = Subject(
        models[-1],
        lambda b: models[-1](b.x),
        DATA.spec,
        {"main": DATA},
        loss=lambda output, batch: F.cross_entropy(output, batch.y, reduction="none"),
        trajectory=lambda: iter(kept),
    )
    ctx = Context(rng=torch.Generator().manual_seed(0), spec=DATA.spec)
    return LinearPath(points=11, examples=512).evaluate(subject, ctx).arrays["loss"]


@pytest.mark.claim
@pytest.mark.slow
def test_no_barrier_to_the_solution_but_between_solutions() -> None:
    pairs = [trained(seed) for seed in range(3)]
    for models in pairs:
        loss = path(models)
        assert loss[-1] < 0.05 * loss[0]
        climbs = np.diff(loss)
        assert climbs.max() < 0.02 * loss[0]  # falling all the way, up to a fiftieth of where it starts
    for (_, a), (_, b) in itertools.pairwise(pairs):
        between = path([a, b])
        assert between.max() > 3 * max(between[0], between[-1])
