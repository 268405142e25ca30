"""The randomization test against trainings whose accuracies are known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Ask, Context, Data, DataSpec, Split, Trained
from assay.plugins.study.randomization_test import RandomizationTest

SPEC = DataSpec(shape=(1,), classes=("a", "b", "c"))


class Always(nn.Module):
    """Answers with the class that the input names."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(x[:, 0].long(), 3).float()


def split(said: Sequence[int], true: Sequence[int]) -> Split:
    """Examples that the model answers with `said`."""
    return Split({"x": np.array(said, dtype=np.float32)[:, None], "y": np.array(true, dtype=np.int64)})


class Known:
    """A lab whose trainings fit a known share of their labels."""

    def __init__(self) -> None:
        self.data = Data(SPEC, {"train": split([0] * 4, [0] * 4), "test": split([0] * 4, [0, 0, 1, 2])})
        self.asked: list[Ask] = []

    def train(self, asks: Sequence[Ask]) -> list[Trained]:
        self.asked += asks
        return [self._one(ask) for ask in asks]

    def _one(self, ask: Ask) -> Trained:
        random = ask.transforms[0]["fraction"] == 1.0
        train = split([0, 1, 2, 1], [0, 1, 2, 1] if random else [0, 1, 2, 2])
        test = split([0, 0, 1, 2], [1, 1, 1, 0] if random else [0, 0, 1, 2])
        return Trained(Always(), [], lambda name: Always(), [], Data(SPEC, {"train": train, "test": test}))


def test_each_share_is_trained_with_every_seed_and_judged_on_its_own_labels() -> None:
    lab: Any = Known()
    ctx = Context(rng=torch.Generator(), spec=SPEC, seed=5)
    method = RandomizationTest(fractions=(0.0, 1.0), seeds=2, epochs=7)
    result, verdict = method.study(lab, ctx)
    assert [(a.transforms[0]["fraction"], a.seed) for a in lab.asked] == [(0.0, 5), (0.0, 6), (1.0, 5), (1.0, 6)]
    assert all(a.transforms[0]["kind"] == "uniform" and a.changes == {"epochs": 7} for a in lab.asked)
    assert result.arrays["training_accuracy"].tolist() == [0.75, 1.0]
    assert result.arrays["test_accuracy"].tolist() == [1.0, 0.25]
    assert result.numbers["fitted"].value == 1.0
    assert result.numbers["tested"].value == 0.25
    assert result.numbers["chance"].value == 0.5  # two of four test examples are of class a
    assert "fits labels of which 100% are random" in verdict


@pytest.mark.parametrize("fractions", [(0.5,), ()])
def test_one_share_alone_is_no_test(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="fractions"):
        RandomizationTest(fractions=fractions)
