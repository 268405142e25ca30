"""Which points are asked for, and which is taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from assay.plugins.contract import AssayError, BadInput, Context, DataSpec
from assay.plugins.search._common import points
from assay.plugins.search.random_search import RandomSearch, draw

SPACE = {"cell": ["a", "b", "c", "d"]}
ERRORS = {"a": 0.4, "b": 0.1, "c": 0.3, "d": 0.2}


def context(seed: int = 0) -> Context:
    return Context(rng=torch.Generator().manual_seed(seed), spec=DataSpec(shape=(2,)))


def test_points_are_every_combination_the_last_path_fastest() -> None:
    found = points({"a": [1, 2], "b": ["x", "y", "z"]}, 6)
    assert [tuple(point.values()) for point in found] == [(1, "x"), (1, "y"), (1, "z"), (2, "x"), (2, "y"), (2, "z")]
    with pytest.raises(BadInput, match="6 points; this search takes at most 5"):
        points({"a": [1, 2], "b": ["x", "y", "z"]}, 5)


def test_draws_are_without_replacement_and_each_as_likely() -> None:
    counts = Counter(i for seed in range(3000) for i in draw(5, 2, torch.Generator().manual_seed(seed)))
    assert all(abs(counts[i] / 3000 - 2 / 5) < 0.04 for i in range(5))
    assert sorted(draw(4, 9, torch.Generator())) == [0, 1, 2, 3]


def test_all_are_asked_for_at_once_and_the_lowest_error_of_the_last_epoch_wins(table_lab: Callable[..., Any]) -> None:
    lab = table_lab(ERRORS)
    changes, result = RandomSearch(queries=4).search(SPACE, lab, context())
    (asked,) = lab.asked
    assert changes == {"cell": "b"}
    assert result.numbers["validation_error"].value == 0.1
    assert result.arrays["cell"].tolist() == asked
    errors = [ERRORS[name] for name in asked]
    assert result.arrays["validation_error"].tolist() == errors
    assert result.arrays["lowest_so_far"].tolist() == np.minimum.accumulate(errors).tolist()
    assert "failure" not in result.arrays


def test_the_validation_split_is_the_datas_own_where_they_have_one(table_lab: Callable[..., Any]) -> None:
    lab, own = table_lab(ERRORS), table_lab(ERRORS, validation=True)
    for one in (lab, own):
        RandomSearch(queries=2, validation=0.3).search(SPACE, one, context())
    assert list(lab.transforms[0]) == [{"name": "transform/validation_split", "share": 0.3}]
    assert lab.transforms[0] == lab.transforms[1]
    assert own.transforms == [(), ()]


def test_a_point_that_fails_is_told_and_the_others_count(table_lab: Callable[..., Any]) -> None:
    lab = table_lab({**ERRORS, "b": "loss is nan"})
    changes, result = RandomSearch(queries=4).search(SPACE, lab, context())
    assert changes == {"cell": "d"}
    row = result.arrays["cell"].tolist().index("b")
    assert result.arrays["failure"][row] == "loss is nan"
    assert np.isnan(result.arrays["validation_error"][row])
    assert np.isfinite(result.arrays["lowest_so_far"][max(row, 1) :]).all()
    with pytest.raises(AssayError, match="every point of the search failed; the first: no"):
        RandomSearch().search(SPACE, table_lab(dict.fromkeys("abcd", "no")), context())
