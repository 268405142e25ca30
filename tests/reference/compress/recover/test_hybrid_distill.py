"""Hybrid distilling: what it asks the lab for."""

from __future__ import annotations

from typing import Any

import pytest

from assay.plugins.compress.recover.hybrid_distill import HybridDistill
from assay.plugins.contract import Ask

OWN = {"name": "hybrid_distillation", "alpha": 1.0, "beta": 1.0, "keep": 0.7, "heads": 4}


@pytest.mark.parametrize(
    ("fields", "changes", "teacher"),
    [
        ({}, {"epochs": 1, "objective": OWN}, "dense"),
        (
            {"epochs": 3, "lr": 0.01, "teacher": "big", "alpha": 2, "beta": 3, "keep": 0.5, "heads": 2},
            {
                "epochs": 3,
                "optimizer.lr": 0.01,
                "objective": {**OWN, "alpha": 2.0, "beta": 3.0, "keep": 0.5, "heads": 2},
            },
            "big",
        ),
    ],
)
def test_it_asks_for_one_training_with_both_teachers(fields: dict[str, Any], changes: Any, teacher: str) -> None:
    link = HybridDistill(mim_teacher="mim", **fields)
    assert list(link.asks()) == [
        Ask(changes=changes, start="parent", models={"teacher": teacher, "mim_teacher": "mim"})
    ]
