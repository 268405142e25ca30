"""CausIRL: the two distances by loops in numpy, and the halves."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins.contract import Batch, Context, DataSpec
from assay.plugins.train.penalty.causirl import CausIRL, coral, halves, mmd

SPEC = DataSpec(shape=(3,), classes=("a", "b"))
RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(4, 3)), RNG.normal(1, 2, size=(6, 3))
GAMMAS = [1e-3, 1e-2, 1e-1, 1, 10, 100, 1000]


def mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean([sum(np.exp(-g * np.sum((a - b) ** 2)) for g in GAMMAS) for a in x for b in y]))


def test_mmd_by_loops():
    expected = mean_kernel(A, A) + mean_kernel(B, B) - 2 * mean_kernel(A, B)
    assert float(mmd(torch.tensor(A), torch.tensor(B))) == pytest.approx(expected, rel=1e-10)
    assert float(mmd(torch.tensor(A), torch.tensor(A))) == pytest.approx(0, abs=1e-12)


def test_coral_by_numpy():
    expected = np.mean((A.mean(0) - B.mean(0)) ** 2) + np.mean((np.cov(A.T) - np.cov(B.T)) ** 2)
    assert float(coral(torch.tensor(A), torch.tensor(B))) == pytest.approx(expected, rel=1e-10)
    one = torch.randn(5, 1)
    assert float(coral(one, one)) == 0


def test_halves_cut_each_domain_at_its_own_random_place():
    group = torch.tensor([1, 0, 0, 1, 0, 1, 0, 0])
    cuts = set()
    rng = torch.Generator().manual_seed(0)
    for _ in range(300):
        first = halves(group, rng)
        for domain in (0, 1):
            part = first[group == domain].tolist()
            assert part == sorted(part, reverse=True)  # those before the cut
        cuts.add((int(first[group == 0].sum()), int(first[group == 1].sum())))
    assert cuts == {(i, j) for i in range(5) for j in range(3)}


@pytest.mark.parametrize("distance", ["mmd", "coral"])
def test_the_penalty_is_the_distance_of_the_halves_features(distance):
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(layers=nn.Linear(3, 4), act=nn.Tanh(), head=nn.Linear(4, 2)))
    x, group = torch.randn(12, 3), torch.arange(12) % 3
    ctx = Context(rng=torch.Generator().manual_seed(4), spec=SPEC)
    found = CausIRL(weight=0.5, distance=distance).loss(model, Batch({"index": group, "x": x, "group": group}), ctx)
    first = halves(group, torch.Generator().manual_seed(4))
    assert 2 <= first.sum() <= 10
    features = model.act(model.layers(x))
    expected = {"mmd": mmd, "coral": coral}[distance](features[first], features[~first])
    torch.testing.assert_close(found, 0.5 * expected)


def test_halves_that_are_too_small_are_not_compared():
    model = nn.Sequential(OrderedDict(layers=nn.Linear(3, 4), head=nn.Linear(4, 2)))
    ctx = Context(rng=torch.Generator().manual_seed(0), spec=SPEC)
    loss = CausIRL(distance="coral").loss(model, Batch({"index": torch.arange(2), "x": torch.randn(2, 3)}), ctx)
    assert float(loss) == 0
    assert loss.requires_grad
