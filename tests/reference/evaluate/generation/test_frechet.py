"""The Fréchet distance against scipy's root of a matrix, by hand, and in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from assay.plugins.contract import Context, Data, DataSpec, NotAuditable, Split, Subject
from assay.plugins.evaluate.generation._common import projected
from assay.plugins.evaluate.generation.frechet import Frechet, frechet


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    first, second = np.cov(a.T), np.cov(b.T)
    root = sqrtm(first @ second).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root))


@pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 5), (50, 60, 12), (40, 40, 2)])
def test_against_scipy(n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(d)
    a, b = rng.normal(0.3, 1, (n, d)) @ rng.normal(size=(d, d)), rng.normal(0, 2, (m, d)) @ rng.normal(size=(d, d))
    assert frechet(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(by_scipy(a, b), rel=1e-6)


def test_in_one_dimension_by_hand() -> None:
    a, b = torch.tensor([[0.0], [2.0]]).double(), torch.tensor([[3.0], [7.0]]).double()
    assert frechet(a, b) == pytest.approx((1 - 5) ** 2 + (2**0.5 - 8**0.5) ** 2)


def test_fewer_examples_than_values() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 20)), rng.normal(size=(7, 20))
    found = frechet(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx(by_scipy(a, b), rel=1e-3)
    assert frechet(torch.from_numpy(a), torch.from_numpy(a)) == pytest.approx(0, abs=1e-9)


def test_the_directions_keep_distances_and_are_always_the_same() -> None:
    values = torch.randn(30, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    small = projected(values, 256)
    assert small.shape == (30, 256)
    assert torch.equal(small, projected(values, 256))
    ratio = torch.pdist(small) / torch.pdist(values.flatten(1))
    assert float(ratio.mean()) == pytest.approx(1, abs=0.03)
    assert torch.equal(projected(values, 784), values.flatten(1))


def subject(draws: np.ndarray, test: np.ndarray, train: np.ndarray) -> Subject:
    spec = DataSpec(problem="generation", modality="features", shape=test.shape[1:])
    data = Data(spec, {"train": Split({"x": train}), "test": Split({"x": test})})
    answer = torch.from_numpy(draws)
    return Subject(torch.nn.Identity(), lambda batch: answer[batch.index], spec, {"main": data})


def test_numbers_and_arrays() -> None:
    rng = np.random.default_rng(1)
    test, train, draws = (rng.normal(shift, 1, (50, 3)).astype(np.float32) for shift in (0, 0, 1))
    ctx = Context(rng=torch.Generator(), spec=DataSpec(shape=(3,)), batch_limit=7)
    found = Frechet().evaluate(subject(draws, test, train), ctx)
    assert found.numbers["frechet"].value == pytest.approx(by_scipy(draws.astype(float), test.astype(float)), rel=1e-5)
    assert found.numbers["data"].value == pytest.approx(by_scipy(train.astype(float), test.astype(float)), rel=1e-5)
    np.testing.assert_array_equal(found.arrays["samples"], draws[:36])
    assert found.arrays["examples"].shape == (36, 3)
    with pytest.raises(NotAuditable, match="NaN or infinite"):
        Frechet().evaluate(subject(draws * np.nan, test, train), ctx)
    with pytest.raises(NotAuditable, match="single draw"):
        Frechet().evaluate(subject(draws[:1], test[:1], train), ctx)
