"""Distilling: what it asks the lab for, and that the lab's weights come back unchanged."""

from __future__ import annotations

from typing import Any

import pytest

from assay.plugins.compress.recover.distill import Distill
from assay.plugins.contract import Ask

SOFT = {"name": "distillation", "temperature": 4.0, "alpha": 0.9}


@pytest.mark.parametrize(
    ("fields", "changes", "teacher"),
    [
        ({}, {"epochs": 1, "objective": SOFT}, "dense"),
        (
            {"epochs": 3, "lr": 0.01, "teacher": "big", "temperature": 2, "alpha": 0.5},
            {"epochs": 3, "optimizer.lr": 0.01, "objective": {**SOFT, "temperature": 2.0, "alpha": 0.5}},
            "big",
        ),
    ],
)
def test_it_asks_for_one_training_with_the_teacher(fields: dict[str, Any], changes: Any, teacher: str) -> None:
    assert list(Distill(**fields).asks()) == [Ask(changes=changes, start="parent", models={"teacher": teacher})]
