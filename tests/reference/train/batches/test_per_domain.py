"""Per domain: equal parts, each example of the largest domain once, the smaller ones again."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from assay.plugins.contract import BadInput, Context, DataSpec, Split
from assay.plugins.train.batches.per_domain import PerDomain

SPEC = DataSpec(shape=(1,), classes=("a", "b"))


def split(*sizes: int) -> Split:
    group = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)) * 2, sizes))
    return Split({"x": np.zeros((len(group), 1), np.float32), "group": group})


def context() -> Context:
    return Context(rng=torch.Generator().manual_seed(3), spec=SPEC)


def test_equal_parts_and_whole_orders() -> None:
    data = split(12, 5)
    group = data.fields["group"]
    batches = list(PerDomain(size=6).epoch(data, context()))
    assert len(batches) == PerDomain(size=6).steps(data) == 4
    for at in batches:
        assert at.dtype == torch.int64
        assert Counter(group[at.numpy()]) == {0: 3, 2: 3}
    seen = Counter(torch.cat(batches).tolist())
    assert sorted(seen[i] for i in np.flatnonzero(group == 0)) == [1] * 12
    assert sorted(seen[i] for i in np.flatnonzero(group == 2)) == [2, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("sizes", "size", "expected"),
    [
        ((8, 8), 8, [8, 8]),
        ((9, 4), 8, [8, 8]),  # one example of the larger domain waits for the next epoch
        ((4, 4), 100, [8]),
        ((3, 5, 4), 7, [6] * 2),
        ((10,), 5, [5, 5]),
    ],
)
def test_sizes(sizes: tuple[int, ...], size: int, expected: list[int]) -> None:
    batches = list(PerDomain(size=size).epoch(split(*sizes), context()))
    assert [len(b) for b in batches] == expected
    assert PerDomain(size=size).steps(split(*sizes)) == len(expected)


def test_every_order_is_new_and_seeded() -> None:
    ctx, again = context(), context()
    first, second = (torch.cat(list(PerDomain(size=8).epoch(split(8, 8), ctx))) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.cat(list(PerDomain(size=8).epoch(split(8, 8), again))))


def test_data_without_domains_and_batches_too_small() -> None:
    plain = Split({"x": np.zeros((10, 1), np.float32)})
    assert sorted(torch.cat(list(PerDomain(size=5).epoch(plain, context()))).tolist()) == list(range(10))
    with pytest.raises(BadInput, match="one example of each of 3 domains"):
        PerDomain(size=2).steps(split(5, 5, 5))
