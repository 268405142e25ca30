"""Singh et al. 2024, Frankle et al. 2020: a barrier between strangers, none between solutions that part late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assay.flows.study import run_study
from assay.plugins.study.mode_connectivity import ModeConnectivity

TREE: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "prepare": ["source/digits", {"name": "transform/subset", "train": 1000, "test": 300}],
    "train": {
        "model": {"name": "mlp", "hidden": [64, 64]},
        "batches": {"name": "shuffled", "size": 50},
        "optimizer": {"name": "adamw", "lr": 0.005, "weight_decay": 0.0},
    },
}


@pytest.mark.claim
@pytest.mark.slow
def test_the_barrier_falls_with_what_is_shared(tmp_path: Path) -> None:
    method = ModeConnectivity(epochs=10, parts=(0, 2, 6), pairs=3, points=9)
    found = run_study("study", method, TREE, project=tmp_path, prefect=False, track=False).result
    apart, first, early, late = found.arrays["barrier"]
    assert found.arrays["lowest"][0] > 0.2  # of three pairs of strangers
    assert found.arrays["highest"][1] < 0.2 * found.arrays["lowest"][0]  # the same start is what counts most
    assert apart > first >= early >= late
    assert late < 0.01
    assert found.numbers["one_layer"].value < 0.2 * apart
