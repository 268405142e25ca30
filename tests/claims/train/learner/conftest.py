"""Digits, and any learner trained on them by a plain loop."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from assay.plugins.contract import Bound, Context, Data, DataSpec, Learner, Optimizer, Split, State, Terms
from assay.plugins.train.objective.cross_entropy import CrossEntropy
from assay.plugins.train.optimizer.adamw import AdamW
from assay.plugins.train.schedule.constant import Constant


def chain(*widths: int, outputs: int, act: type[nn.Module] = nn.ReLU) -> nn.Module:
    """A chain of dense layers and a head."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, (a, b) in enumerate(pairwise(widths)):
        layers[f"linear{i}"], layers[f"act{i}"] = nn.Linear(a, b), act()
    return nn.Sequential(OrderedDict(layers=nn.Sequential(layers), head=nn.Linear(widths[-1], outputs)))


@dataclass
class Trained:
    """A finished training."""

    state: State
    model: nn.Module
    data: Data

    def accuracy(self) -> float:
        """On the test split."""
        batch = self.data.test.batch(slice(None))
        with torch.no_grad():
            return float((self.model.eval()(batch.x).argmax(1) == batch.y).float().mean())

    def loss(self, split: str = "test") -> float:
        """The mean objective on a split."""
        batch = self.data.splits[split].batch(slice(None))
        objective = self.state.terms.objective.method
        with torch.no_grad():
            return float(objective.score(self.model.eval()(batch.x), batch).mean())


@pytest.fixture(scope="session")
def digits() -> Data:
    found = load_digits()
    order = np.random.default_rng(0).permutation(1797)
    x, y = (found.images[order, None] / 16).astype(np.float32), found.target[order]
    splits = {"train": Split({"x": x[:1000], "y": y[:1000]}), "test": Split({"x": x[1000:], "y": y[1000:]})}
    return Data(DataSpec(shape=(1, 8, 8), classes=tuple("0123456789")), splits)


@pytest.fixture(scope="session")
def train() -> Callable[..., Trained]:
    """Trains a model with a learner; `each_epoch(state, epoch)` looks at it on the way."""

    def run(
        learner: Learner,
        model: Callable[[], nn.Module],
        data: Data,
        seed: int,
        epochs: int,
        optimizer: Optimizer | None = None,
        objective: object | None = None,
        size: int = 50,
        each_epoch: Callable[[State, int], None] | None = None,
    ) -> Trained:
        torch.manual_seed(seed)

        def context() -> Context:
            return Context(rng=torch.Generator().manual_seed(seed), spec=data.spec)

        steps = len(data.train) // size
        terms = Terms(
            objective=Bound(objective or CrossEntropy(), context(), "objective"),
            penalties=[],
            around=[],
            optimizer=optimizer or AdamW(lr=1e-3),
            schedule=Constant(),
            total_steps=epochs * steps,
        )
        ctx, base = context(), model()
        network = learner.apply(base, learner.fit(base, data, ctx))
        state = learner.init(network, terms, data, ctx)
        for epoch in range(epochs):
            order = torch.randperm(len(data.train))
            for i in range(steps):
                ctx.step = epoch * steps + i
                ctx.progress = ctx.step / terms.total_steps
                learner.step(state, data.train.batch(order[i * size : (i + 1) * size]), ctx)
            if each_epoch is not None:
                each_epoch(state, epoch)
        return Trained(state, learner.finish(state), data)

    run.chain = chain  # type: ignore[attr-defined]
    return run
