"""Zhang et al. 2017: a network that generalises also fits random labels, and then is at chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.flows.study import run_study
from assay.plugins.study.randomization_test import RandomizationTest

TREE: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "prepare": ["source/digits", {"name": "transform/subset", "train": 300, "test": 300}],
    "train": {
        "model": {"name": "mlp", "hidden": [512]},
        "batches": {"name": "shuffled", "size": 50},
        "optimizer": {"name": "adamw", "lr": 0.003, "weight_decay": 0.0},
        "epochs": 200,
    },
}


@pytest.mark.claim
@pytest.mark.slow
def test_random_labels_are_fitted(tmp_path: Path) -> None:
    method = RandomizationTest(fractions=(0.0, 0.5, 1.0), seeds=3)
    found = run_study("study", method, TREE, project=tmp_path, prefect=False, track=False)
    fitted, tested = (found.result.arrays[name] for name in ("training_accuracy", "test_accuracy"))
    assert (fitted > 0.99).all()  # whatever the labels, the training split is memorised
    assert tested[0] > 0.9
    assert (np.diff(tested) < -0.1).all()
    assert abs(tested[-1] - 0.1) < 0.05
    assert "fits labels" in found.answer
