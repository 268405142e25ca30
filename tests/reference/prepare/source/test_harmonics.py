"""The signal against its sum written out, and its bounds."""

from __future__ import annotations

import math

import numpy as np
import torch

from assay.plugins.contract import Context, DataSpec
from assay.plugins.prepare.source.harmonics import Harmonics, wave_sum


def test_the_sum_written_out() -> None:
    points, frequencies, phases = np.array([[0.3, -0.2]]), np.array([[1.0, 2.0], [0.5, 0.0]]), np.array([0.1, 0.7])
    expected = 0.5 + 0.25 * (math.sin(2 * math.pi * (0.3 - 0.4) + 0.1) + math.sin(2 * math.pi * 0.15 + 0.7))
    assert abs(wave_sum(points, frequencies, phases)[0] - expected) < 1e-12


def test_points_are_apart_and_values_bounded() -> None:
    data = Harmonics(points=50).load(Context(rng=torch.Generator(), spec=DataSpec(shape=())))
    train, test = data.train.fields, data.test.fields
    assert train["x"].shape == (1, 50, 2)
    assert test["y"].shape == (1, 50, 1)
    assert len(np.unique(np.concatenate([train["x"][0], test["x"][0]]), axis=0)) == 100
    for fields in (train, test):
        assert 0 <= fields["y"].min() < fields["y"].max() <= 1
        assert np.abs(fields["x"]).max() <= 1
