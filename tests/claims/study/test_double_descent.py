"""Liu & Flanigan 2023: the test loss peaks over widths only where the optimizer reaches a low training loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assay.flows.study import run_study
from assay.plugins.study.double_descent import DoubleDescent


def tree(seed: int) -> dict[str, Any]:
    """A hundred digits with noisy labels, fitted by least squares."""
    noise = {"name": "transform/label_noise", "fraction": 0.3, "kind": "uniform"}
    return {
        "seed": seed,
        "device": "cpu",
        "prepare": ["source/digits", {"name": "transform/subset", "train": 100, "test": 300}, noise],
        "train": {
            "model": {"name": "mlp", "hidden": [8]},
            "objective": "mse",
            "batches": {"name": "shuffled", "size": 50},
            "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.0},
        },
    }


@pytest.mark.claim
@pytest.mark.slow
def test_the_peak_needs_a_low_training_loss(tmp_path: Path) -> None:
    method = DoubleDescent(widths=(2, 4, 6, 10, 14, 20, 40, 100), epochs=(10, 400), seeds=3)
    for seed in range(3):
        found = run_study("study", method, tree(seed), project=tmp_path / str(seed), prefect=False, track=False).result
        numbers = {name: number.value for name, number in found.numbers.items()}
        assert numbers["fitted_long"] < 0.5 * numbers["fitted_short"]
        assert numbers["peak_short"] < 0.05
        assert numbers["peak_long"] > 0.15
        assert found.arrays["test_loss_400"][-1] < found.arrays["test_loss_400"].max() / 1.3  # it descends again
