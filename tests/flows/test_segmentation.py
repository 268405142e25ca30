"""Segmentation end to end: shapes, a U-Net, a pruned variant, attribution, a gate, a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assay.flows import api
from assay.plugins.contract import AssayError

TREE: dict[str, Any] = {
    "prepare": [{"name": "source/shapes", "size": 16, "most": 2, "train": 192, "test": 32}],
    "train": {
        "model": {"name": "unet", "width": 8, "depth": 1},
        "batches": {"name": "shuffled", "size": 8},
        "optimizer": {"name": "adamw", "lr": 0.02},
        "epochs": 8,
    },
    "compress": {"pruned": [{"name": "prune/magnitude", "sparsity": 0.3}]},
    "attribute": {
        "saliency": ["gradient", "grad_cam"],
        "agreement": ["rank"],
        "audit": ["mask_share", "deletion"],
        "images": 16,
    },
    "evaluate": ["accuracy/mean_iou", "accuracy/top1", "cost/size"],
    "gates": ["accuracy/mean_iou.drop <= 1"],
}


def test_a_segmentation_runs_to_its_gate(tmp_path: Path) -> None:
    result = api.run(TREE, project=tmp_path, prefect=False, track=False)
    summary = result.summary
    assert summary is not None
    found = summary.find("dense", "accuracy/mean_iou")
    assert found is not None
    assert found.low < found.value < found.high
    assert found.value > 0.5
    assert [gate.passed for gate in summary.gates] == [True]
    assert {what for what, _ in summary.skipped} == {"audit deletion", "evaluate top1"}
    share = summary.find("pruned", "mask_share", "", "gradient")
    assert share is not None
    assert share.value > 0
    assert "triangle" in result.report.read_text(encoding="utf-8")


def test_a_model_of_another_problem_is_refused(tmp_path: Path) -> None:
    tree = {**TREE, "train": {"model": "small_cnn", "epochs": 1}, "attribute": {"saliency": []}}
    expected = r"small_cnn predicts \[4\] for each example; segmentation needs \[4, 16, 16\]"
    with pytest.raises(AssayError, match=expected) as raised:
        api.run(tree, project=tmp_path, prefect=False, track=False)
    assert raised.value.code == 2
