"""Graph classification end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assay.flows import api

TREE: dict[str, Any] = {
    "prepare": [{"name": "source/graphs", "nodes": 10, "train": 300, "test": 60}],
    "train": {
        "model": {"name": "gin", "width": 16, "depth": 2},
        "batches": {"name": "shuffled", "size": 16},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "epochs": 12,
    },
    "compress": {"pruned": [{"name": "prune/magnitude", "sparsity": 0.3}]},
    "attribute": {"saliency": ["gradient", "integrated_gradients"], "agreement": ["rank", "cosine"], "images": 16},
    "evaluate": ["accuracy/top1", "calibration/ece", "cost/size"],
    "gates": ["accuracy/top1.drop <= 1", "gradient:rank >= floor - 1"],
}


def test_a_graph_runs_to_its_gate(tmp_path: Path) -> None:
    result = api.run(TREE, project=tmp_path, prefect=False, track=False)
    summary = result.summary
    found = summary.find("dense", "accuracy/top1")
    assert found is not None
    assert found.value > 0.8
    assert [gate.passed for gate in summary.gates] == [True, True]
    assert "no images" in result.report.read_text(encoding="utf-8")
