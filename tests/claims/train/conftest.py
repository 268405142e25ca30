"""Adapting to a domain without labels: two moons, and the same turned about their middle."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Around, Bound, Context, Data, DataSpec, Penalty, Split, Terms
from assay.plugins.train.batches.per_domain import PerDomain
from assay.plugins.train.learner.backprop import Backprop
from assay.plugins.train.objective.cross_entropy import CrossEntropy
from assay.plugins.train.optimizer.sgd import SGD
from assay.plugins.train.schedule.constant import Constant

SPEC = DataSpec(modality="features", shape=(2,), classes=("lower", "upper"))
EACH = 300


class Network(nn.Module):
    """Two hidden layers of 32 units."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.head = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


def moons(n: int, degrees: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 2) and their moons."""
    angle, y = rng.uniform(0, np.pi, n), rng.integers(0, 2, n)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    x = np.where(y[:, None] == 1, upper, lower) + rng.normal(0, 0.05, (n, 2)) - [0.5, 0.25]
    turn = np.deg2rad(degrees)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return (x @ matrix.T).astype(np.float32), y


@pytest.fixture(scope="session")
def adapt() -> Callable[..., tuple[float, float]]:
    """Trains on labelled moons and unlabelled turned ones; accuracy on the labelled and on other turned ones."""

    def run(
        penalties: Sequence[Penalty], around: Sequence[Around], seed: int, degrees: float, epochs: int
    ) -> tuple[float, float]:
        rng = np.random.default_rng(seed)
        (x, y), (turned, _), (x_test, y_test) = (
            moons(n, d, rng) for n, d in ((EACH, 0), (EACH, degrees), (1000, degrees))
        )
        group = np.repeat([0, 1], EACH)
        labels = np.concatenate([y, np.zeros(EACH, np.int64)])
        split = Split({"x": np.concatenate([x, turned]), "y": labels, "group": group, "labelled": group == 0})
        torch.manual_seed(seed)
        model = Network()

        def bind(method: object, name: str) -> Bound:
            return Bound(method, Context(rng=torch.Generator().manual_seed(seed), spec=SPEC), name)

        batches = bind(PerDomain(size=60), "batches")
        total = epochs * batches.method.steps(split)
        terms = Terms(
            bind(CrossEntropy(), "objective"),
            [bind(method, f"penalty.{i}") for i, method in enumerate(penalties)],
            [bind(method, f"around.{i}") for i, method in enumerate(around)],
            SGD(lr=0.05, momentum=0.9),
            Constant(),
            total_steps=total,
        )
        learner, ctx = Backprop(), Context(rng=torch.Generator(), spec=SPEC)
        state = learner.init(model, terms, Data(SPEC, {"train": split}), ctx)
        step = 0
        for _ in range(epochs):
            for at in batches.method.epoch(split, batches.ctx):
                for bound in (terms.objective, *terms.penalties, *terms.around):
                    bound.ctx.step, bound.ctx.progress = step, step / total
                learner.step(state, split.batch(at), ctx)
                step += 1

        def accuracy(x: np.ndarray, y: np.ndarray) -> float:
            with torch.no_grad():
                return (model(torch.from_numpy(x)).argmax(dim=1) == torch.from_numpy(y)).float().mean().item()

        return accuracy(x, y), accuracy(x_test, y_test)

    return run
