"""Detection end to end: drawn boxes, a grid detector, a pruned variant, attribution, a gate, a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assay.flows import api

TREE: dict[str, Any] = {
    "prepare": [{"name": "source/boxes", "size": 32, "most": 2, "train": 256, "test": 32}],
    "train": {
        "model": {"name": "grid_detector", "width": 8},
        "batches": {"name": "shuffled", "size": 8},
        "optimizer": {"name": "adamw", "lr": 0.02},
        "epochs": 8,
    },
    "predict": "soft_nms",
    "compress": {"pruned": [{"name": "prune/magnitude", "sparsity": 0.3}]},
    "attribute": {"saliency": ["gradient"], "agreement": ["rank"], "audit": ["mask_share"], "images": 16},
    "evaluate": ["accuracy/mean_average_precision", "cost/size"],
    "gates": ["accuracy/mean_average_precision.ap50.drop <= 1"],
}


def test_a_detection_runs_to_its_gate(tmp_path: Path) -> None:
    result = api.run(TREE, project=tmp_path, prefect=False, track=False)
    summary = result.summary
    found = summary.find("dense", "accuracy/mean_average_precision", "ap50")
    assert found is not None
    assert found.value > 0.3
    assert [gate.passed for gate in summary.gates] == [True]
    assert not summary.collapsed
    share = summary.find("dense", "mask_share", "share", "gradient")
    area = summary.find("dense", "mask_share", "area", "gradient")
    assert share is not None
    assert area is not None
    assert share.value > area.value
    assert "triangle" in result.report.read_text(encoding="utf-8")
