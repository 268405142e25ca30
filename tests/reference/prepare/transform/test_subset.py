"""subset: counts worked out by hand, examples followed by their number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.plugins.contract import Context, Data, DataSpec, Split
from assay.plugins.prepare.transform._common import shares
from assay.plugins.prepare.transform.subset import Subset


def context(seed: int = 0) -> Context:
    return Context(rng=torch.Generator().manual_seed(seed), spec=DataSpec(shape=(1,)))


def sample(counts=(50, 30, 20), **fields) -> Data:
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    x = np.arange(len(y), dtype=np.float32)[:, None]
    splits = {name: Split({"x": x, "y": y, **fields}) for name in ("train", "test", "other")}
    return Data(DataSpec(shape=(1,), classes=tuple("abcdefgh"[: len(counts)])), splits)


def made(data: Data, seed: int = 0, **fields) -> Data:
    method = Subset(**fields)
    return method.apply(data, method.fit(data, context(seed)))


@pytest.mark.parametrize(
    ("counts", "most", "expected"),
    [
        ((50, 30, 20), 10, [5, 3, 2]),
        ((50, 30, 20), 7, [4, 2, 1]),  # 3.5, 2.1, 1.4: the largest remainder is the first's
        ((50, 30, 20), 11, [6, 3, 2]),  # 5.5, 3.3, 2.2
        ((97, 2, 1), 10, [8, 1, 1]),  # 9.7, 0.2, 0.1, and each class keeps one
        ((5, 5, 5), 2, None),
        ((1, 99), 50, [1, 49]),
    ],
)
def test_shares_by_largest_remainder(counts, most, expected):
    kept = shares(np.array(counts), most)
    assert kept.sum() == most
    assert (kept <= counts).all()
    if expected:
        assert kept.tolist() == expected


def test_shares_hold_for_any_counts():
    rng = np.random.default_rng(0)
    for _ in range(300):
        counts = rng.integers(1, 30, rng.integers(1, 8))
        most = int(rng.integers(1, counts.sum() + 1))
        kept = shares(counts, most)
        assert kept.sum() == most
        assert (kept <= counts).all()
        if most >= len(counts):
            assert kept.min() >= 1
        exact = counts * most / counts.sum()
        if (exact >= 1).all():
            assert np.abs(kept - exact).max() < 1


def test_a_part_of_the_examples_in_their_order_with_all_fields():
    data = sample(group=np.arange(100))
    small = made(data, train=20, test=10)
    for name, n in (("train", 20), ("test", 10)):
        fields = small.splits[name].fields
        numbers = fields["group"]
        assert len(numbers) == len(set(numbers.tolist())) == n
        assert (np.diff(numbers) > 0).all()
        np.testing.assert_array_equal(fields["x"][:, 0], numbers)
        np.testing.assert_array_equal(fields["y"], data.train.fields["y"][numbers])
        assert np.bincount(fields["y"]).tolist() == [n // 2, 3 * n // 10, n // 5]
    assert small.splits["other"] is data.splits["other"]


def test_zero_and_more_than_there_are_keep_all():
    data = sample()
    small = made(data, train=0, test=1000)
    assert small.train is data.train
    assert small.test is data.test


def test_the_draw_is_seeded_and_each_example_as_likely():
    data = sample((20,))
    assert made(data, train=5).train.fields["x"].tobytes() == made(data, train=5).train.fields["x"].tobytes()
    often = np.zeros(20)
    for seed in range(800):
        often[made(data, seed, train=5).train.fields["x"][:, 0].astype(int)] += 1
    # Each of 20 is in 5 of 20 draws; binomial deviation of 800 draws is 12.2.
    assert np.abs(often - 200).max() < 5 * np.sqrt(800 * 0.25 * 0.75)


def test_without_labels_or_with_real_ones_the_draw_is_plain():
    data = sample()
    for y in (None, np.linspace(0, 1, 100)):
        fields = {"x": data.train.fields["x"]} | ({} if y is None else {"y": y})
        small = made(data.replace(splits={"train": Split(fields)}), train=30)
        assert len(small.train) == 30
        assert len(np.unique(small.train.fields["x"])) == 30
