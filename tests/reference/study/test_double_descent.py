"""Double descent against trainings whose losses are known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Ask, Context, Data, DataSpec, Split, Trained
from assay.plugins.study.double_descent import DoubleDescent, peak

SPEC = DataSpec(problem="regression", modality="features", shape=(1,), outputs=1)
TEST = {(2, 1): 5.0, (4, 1): 4.0, (8, 1): 3.0, (2, 9): 4.0, (4, 9): 10.0, (8, 9): 2.0}


class Constant(nn.Module):
    """Always one value."""

    def __init__(self, value: float):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        return self.value.expand(len(x), 1)


class Known:
    """A lab in which the test loss of each width and number of epochs is a table's, plus the seed's own."""

    loss = staticmethod(lambda output, batch: (output - batch.y).abs().mean(1))

    def __init__(self) -> None:
        one = Split({"x": np.zeros((1, 1), np.float32), "y": np.zeros((1, 1), np.float32)})
        self.data = Data(SPEC, {"train": one, "test": one})
        self.asked: list[Ask] = []

    def train(self, asks: Sequence[Ask]) -> list[Trained]:
        self.asked += asks
        return [self._one(ask) for ask in asks]

    def _one(self, ask: Ask) -> Trained:
        value = TEST[ask.changes["model"]["hidden"][0], ask.changes["epochs"]]
        spread = {0: -1.0, 1: 0.0, 2: 100.0}[(ask.seed or 0) % 10]  # the median over seeds is the table's
        model = Constant(value + spread)
        return Trained(model, [], lambda name: model, [], self.data)


def test_a_peak_is_a_climb_after_a_fall() -> None:
    assert peak(np.array([4.0, 3.0, 2.0, 1.0])) == 0.0
    assert peak(np.array([4.0, 2.0, 5.0, 1.0])) == 1.5
    assert peak(np.array([1.0, 2.0, 1.5, 0.5])) == 1.0


def test_every_width_and_number_of_epochs_is_trained_with_every_seed() -> None:
    lab: Any = Known()
    ctx = Context(rng=torch.Generator(), spec=SPEC, seed=20)
    result, verdict = DoubleDescent(widths=(2, 4, 8), epochs=(1, 9), seeds=3).study(lab, ctx)
    assert len(lab.asked) == 18
    assert result.arrays["test_loss_1"].tolist() == [5, 4, 3]
    assert result.arrays["test_loss_9"].tolist() == [4, 10, 2]
    assert result.numbers["peak_short"].value == 0
    assert result.numbers["peak_long"].value == pytest.approx(1.5)
    assert "after 1 epochs the test loss climbs by 0% over widths, after 9 by 150%" in verdict
