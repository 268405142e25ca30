"""Bergstra & Bengio 2012: where one path of two matters, random points find lower errors than a grid of as many."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from assay.plugins.contract import Ask, Context, Data, DataSpec, Failed, Split, Trained
from assay.plugins.search.random_search import RandomSearch

RATES, SMALL = np.logspace(-4.5, -0.5, 9), np.logspace(-12, -8, 9)
"""Nine learning rates of Adam, which matter, and nine of its epsilons, which do not."""


def error(rate: float, eps: float, seed: int) -> float:
    """The validation error of a small network after five epochs on 300 digits."""
    found = load_digits()
    x, y = torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, eps=eps)
    for _ in range(5):
        for index in torch.randperm(300).split(50):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
    with torch.no_grad():
        return float((model(x[300:1300]).argmax(1) != y[300:1300]).double().mean())


@dataclass
class Known:
    """A lab that looks trainings up, (9, 9) by learning rate and epsilon."""

    errors: np.ndarray

    @property
    def data(self) -> Data:
        split = Split({"x": np.zeros((2, 1), np.float32), "y": np.zeros(2, np.int64)})
        return Data(DataSpec(shape=(1,), modality="features", classes=("a",)), {"train": split, "validation": split})

    def attempt(self, asks: Sequence[Ask]) -> list[Trained | Failed]:
        found = [float(self.errors[ask.changes["rate"], ask.changes["eps"]]) for ask in asks]
        return [
            Trained(nn.Identity(), [{"validation_error": e}], lambda _: nn.Identity(), (), self.data) for e in found
        ]


@pytest.mark.claim
def test_random_points_find_lower_errors_than_a_grid_of_as_many() -> None:
    space = {"rate": list(range(9)), "eps": list(range(9))}
    for seed in range(3):
        errors = np.array([[error(rate, eps, seed) for eps in SMALL] for rate in RATES])
        assert errors.std(axis=1).mean() < 0.2 * errors.mean(axis=1).std()  # one of the two paths matters
        grids = [errors[a::3, b::3].min() for a, b in itertools.product(range(3), repeat=2)]
        found = []
        for draw in range(100):
            context = Context(rng=torch.Generator().manual_seed(draw), spec=DataSpec(shape=(1,)))
            changes, _ = RandomSearch(queries=9).search(space, Known(errors), context)  # type: ignore[arg-type]
            found.append(errors[changes["rate"], changes["eps"]])
        assert np.mean(found) < np.mean(grids)
