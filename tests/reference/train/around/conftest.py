"""A training set up by hand: one linear map or a given model, squared error, plain SGD."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Bound, Card, Context, Data, DataSpec, Objective, State, Terms
from assay.plugins.train.learner.backprop import Backprop
from assay.plugins.train.optimizer.sgd import SGD
from assay.plugins.train.schedule.constant import Constant


class HalfSquare(Objective):
    """Half the squared distance of prediction and target."""

    card = Card(title="half the squared error")

    def score(self, output: Tensor, batch: Batch) -> Tensor:
        return (output - batch.y).pow(2).sum(dim=1) / 2


@pytest.fixture
def start() -> Callable[..., State]:
    """Makes the state of a training with the given model and arounds (lr 0.1, no momentum)."""

    def make(model: nn.Module, *around: object, spec: DataSpec | None = None, penalties: tuple = ()) -> State:
        spec = spec or DataSpec(shape=(2,), outputs=2)

        def bind(method: object, name: str) -> Bound:
            return Bound(method, Context(rng=torch.Generator().manual_seed(0), spec=spec), name)

        terms = Terms(
            objective=bind(HalfSquare(), "objective"),
            penalties=[bind(m, f"penalty.{i}") for i, m in enumerate(penalties)],
            around=[bind(m, f"around.{i}") for i, m in enumerate(around)],
            optimizer=SGD(lr=0.1, momentum=0.0),
            schedule=Constant(),
            total_steps=10,
        )
        return Backprop().init(model, terms, Data(spec, {}), Context(rng=torch.Generator(), spec=spec))

    return make


@pytest.fixture
def learn() -> Callable[[State, Batch], Tensor]:
    """One step of backprop, with every context told the number of the step as the frame does."""

    def step(state: State, batch: Batch) -> Tensor:
        loss = Backprop().step(state, batch, state.terms.objective.ctx)["loss"]
        for bound in state.terms.around:
            bound.ctx.step += 1
        return loss

    return step


@pytest.fixture
def half_square() -> type[Objective]:
    """The objective of these trainings."""
    return HalfSquare
