"""A training set up by hand, with any learner."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Bound, Card, Context, Data, DataSpec, Learner, Objective, State, Terms
from assay.plugins.train.optimizer.sgd import SGD
from assay.plugins.train.schedule.constant import Constant


class HalfSquare(Objective):
    """Half the squared distance of prediction and target."""

    card = Card(title="half the squared error")

    def score(self, output: Tensor, batch: Batch) -> Tensor:
        return (output - batch.y).pow(2).sum(dim=1) / 2


class Begun:
    """A training's state, and a function that takes a step."""

    def __init__(self, learner: Learner, state: State, ctx: Context):
        self.learner, self.state, self.ctx = learner, state, ctx

    def step(self, batch: Batch, at: int = 0) -> Tensor:
        """One step, number `at`; its loss."""
        self.ctx.step = at
        self.ctx.progress = at / self.state.terms.total_steps
        return self.learner.step(self.state, batch, self.ctx)["loss"]


@pytest.fixture
def begin() -> Callable[..., Begun]:
    """Begins a training: the learner's network of the model (in `.state.model`), SGD without momentum."""

    def make(
        learner: Learner,
        model: nn.Module,
        data: Data,
        objective: object = HalfSquare(),
        penalties: tuple = (),
        around: tuple = (),
        lr: float = 0.1,
        steps: int = 10,
        seed: int = 0,
    ) -> Begun:
        def bind(method: object, name: str) -> Bound:
            return Bound(method, Context(rng=torch.Generator().manual_seed(0), spec=data.spec), name)

        terms = Terms(
            objective=bind(objective, "objective"),
            penalties=[bind(m, f"penalty.{i}") for i, m in enumerate(penalties)],
            around=[bind(m, f"around.{i}") for i, m in enumerate(around)],
            optimizer=SGD(lr=lr, momentum=0.0),
            schedule=Constant(),
            total_steps=steps,
        )
        ctx = Context(rng=torch.Generator().manual_seed(seed), spec=data.spec)
        network = learner.apply(model, learner.fit(model, data, ctx))
        return Begun(learner, learner.init(network, terms, data, ctx), ctx)

    return make


@pytest.fixture
def small() -> Data:
    """Three examples of two features, one number each."""
    from assay.plugins.contract import Split

    x = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [3.0, -2.0]]).numpy()
    y = torch.tensor([[1.0], [0.0], [-1.0]]).numpy()
    spec = DataSpec(problem="regression", modality="features", shape=(2,), outputs=1)
    return Data(spec, {"train": Split({"x": x, "y": y})})
