"""Data of another problem are a problem of generation: the same fields, another word in their description."""

from __future__ import annotations

import numpy as np
import pytest

from assay.plugins.contract import BadData, Data, DataSpec, Record, Split
from assay.plugins.prepare.transform.generation import Generation
from assay.plugins.problems.generation import Generation as Problem


def data(**fields: np.ndarray) -> Data:
    x = np.arange(12, dtype=np.float32).reshape(3, 1, 2, 2)
    split = Split({"x": x, **fields})
    return Data(DataSpec(shape=(1, 2, 2), classes=("a", "b")), {"train": split, "test": split})


def test_only_the_problem_changes() -> None:
    given = data(y=np.array([0, 1, 1]))
    found = Generation().apply(given, Record())
    assert found.spec.problem == "generation"
    assert found.spec.model_copy(update={"problem": "classification"}) == given.spec
    assert found.train.fields is given.train.fields
    assert Generation().becomes("classification") == "generation"


def test_what_the_problem_refuses() -> None:
    Problem().check(data())
    Problem().check(data(y=np.array([0, 1, 1])))
    with pytest.raises(BadData, match=r"must be whole numbers in 0\.\.1"):
        Problem().check(data(y=np.array([0, 1, 2])))
    same = data()
    flat = Split({"x": np.ones((3, 1, 2, 2), dtype=np.float32)})
    with pytest.raises(BadData, match="every training example is the same"):
        Problem().check(same.replace(splits={"train": flat, "test": flat}))
    assert Problem().output(same.spec) == (1, 2, 2)
