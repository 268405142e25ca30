"""The line between two models of one weight, whose losses are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Context, Data, DataSpec, NotAuditable, Split, Subject
from assay.plugins.evaluate.dynamics.linear_path import LinearPath, rise

SPEC = DataSpec(problem="regression", modality="features", shape=(1,), outputs=1)
X = np.array([[1.0], [2.0], [3.0]], dtype=np.float32)
Y = 2 * X


def line(weight: float) -> nn.Module:
    """x -> weight * x."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, weight)
    return model


def squared(output: Tensor, batch: Batch) -> Tensor:
    return (output - batch.y).square().mean(1)


def subject(*weights: float) -> Subject:
    models = [line(w) for w in weights]
    split = Split({"x": X, "y": Y})
    data = {"main": Data(SPEC, {"train": split, "test": split})}
    kept = [(f"epoch-{i:05d}", model) for i, model in enumerate(models)]
    return Subject(models[-1], lambda b: b.x, SPEC, data, loss=squared, trajectory=lambda: iter(kept))


def context() -> Context:
    return Context(rng=torch.Generator().manual_seed(0), spec=SPEC)


def test_the_loss_on_the_line_is_the_parabola() -> None:
    found = LinearPath(points=5).evaluate(subject(0.0, 7.0, 2.0), context())
    weights = 2.0 * np.linspace(0, 1, 5)
    expected = (weights - 2) ** 2 * (X**2).mean()  # the middle checkpoint is not on the line
    assert found.arrays["loss"] == pytest.approx(expected, abs=1e-5)
    assert found.arrays["alpha"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.arrays["epoch"].tolist() == [0, 1, 2]
    assert found.arrays["loss_by_epoch"] == pytest.approx((np.array([0, 7, 2]) - 2.0) ** 2 * (X**2).mean(), rel=1e-5)
    assert found.numbers["barrier"].value == pytest.approx(0, abs=1e-6)
    assert found.numbers["start"].value == pytest.approx(4 * (X**2).mean(), rel=1e-5)


def test_a_climb_is_a_barrier() -> None:
    found = LinearPath(points=3).evaluate(subject(0.0, 4.0), context())
    assert found.numbers["barrier"].value == pytest.approx(4 * (X**2).mean(), rel=1e-5)  # from the bottom at 2 up to 4
    assert rise(np.array([3.0, 1.0, 2.5, 0.5, 1.0])) == 1.5


def test_running_statistics_go_along_and_counters_do_not() -> None:
    first, last = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    with torch.no_grad():
        last.running_mean.fill_(4.0)
        last.num_batches_tracked.fill_(9)
    from assay.plugins.evaluate.dynamics._common import between

    half = between(first.state_dict(), last.state_dict(), 0.5)
    assert float(half["running_mean"]) == 2.0
    assert int(half["num_batches_tracked"]) == 9


def test_without_two_checkpoints_or_a_loss_it_cannot_be_asked() -> None:
    with pytest.raises(NotAuditable, match="two kept checkpoints"):
        LinearPath().evaluate(subject(1.0), context())
    silent = Subject(line(1.0), lambda b: b.x, SPEC, subject(1.0, 2.0).data, trajectory=subject(1.0, 2.0).trajectory)
    with pytest.raises(NotAuditable, match="objective"):
        LinearPath().evaluate(silent, context())
