"""Friedman's function against scikit-learn's and its noise against the parameter."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import make_friedman1

from assay.plugins.contract import Context, Data, DataSpec
from assay.plugins.prepare.source.friedman1 import Friedman1, surface


def load(**params: float) -> Data:
    ctx = Context(rng=torch.Generator(), spec=DataSpec(shape=()))
    return Friedman1(**params).load(ctx)  # type: ignore[arg-type]


def test_the_surface_is_scikit_learns() -> None:
    x, y = make_friedman1(50, n_features=7, noise=0.0, random_state=3)
    np.testing.assert_allclose(surface(x), y, rtol=1e-12)


def test_a_value_worked_by_hand() -> None:
    # 10 sin(pi / 2) + 20 / 16 + 10 / 5 + 5 / 2
    assert surface(np.array([[1.0, 0.5, 0.25, 0.2, 0.5, 9.0]]))[0] == np.float64(10 + 1.25 + 2 + 2.5)


def test_fields_and_noise() -> None:
    data = load(train=4000, test=3000, features=8, noise=2.0)
    for split in (data.train, data.test):
        rest = split.fields["y"] - surface(split.fields["x"].astype(np.float64))
        assert abs(rest.mean()) < 0.15
        assert abs(rest.std() - 2.0) < 0.1
        assert split.fields["mask"].tolist() == [[True] * 5 + [False] * 3] * len(split)
    assert data.spec.n_outputs == 1
    assert len(np.unique(np.vstack([s.fields["x"] for s in data.splits.values()]), axis=0)) == 7000
    assert (load(draw=1).train.fields["y"][:5] != load(draw=2).train.fields["y"][:5]).all()
