"""The fit to the known points against torch's own gradient descent."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from assay.plugins.contract import Batch, Context, DataSpec, NotAuditable
from assay.plugins.predict.meta_init_inr import MetaInitINR

CTX = Context(rng=torch.Generator(), spec=DataSpec(problem="field", shape=(5, 2), outputs=1))


def given() -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    shapes = {"x": (5, 2), "y": (5, 1), "x_context": (7, 2), "y_context": (7, 1)}
    fields = {name: torch.randn(3, *shape) for name, shape in shapes.items()}
    return model, Batch({"index": torch.arange(3), **fields})


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_as_gradient_descent_on_each_signal(steps: int) -> None:
    model, batch = given()
    with torch.no_grad():  # as the frame calls it
        found = MetaInitINR(steps=steps, lr=0.2).predict(model, batch, CTX)
    for i in range(3):
        own = copy.deepcopy(model)
        optimizer = torch.optim.SGD(own.parameters(), lr=0.2)
        for _ in range(steps):
            optimizer.zero_grad()
            ((own(batch.x_context[i]) - batch.y_context[i]) ** 2).mean().backward()
            optimizer.step()
        torch.testing.assert_close(found[i], own(batch.x[i]).detach(), atol=1e-6, rtol=1e-5)


def test_the_answers_are_not_looked_at() -> None:
    model, batch = given()
    first = MetaInitINR().predict(model, batch, CTX)
    assert torch.equal(first, MetaInitINR().predict(model, batch.replace(y=batch.y + 5), CTX))


def test_without_context_nothing_can_be_fitted() -> None:
    model, batch = given()
    with pytest.raises(NotAuditable, match="x_context"):
        MetaInitINR().predict(model, Batch({"index": batch.index, "x": batch.x, "y": batch.y}), CTX)
