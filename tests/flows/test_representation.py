"""Representation learning end to end: digits without labels, evaluated by neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assay.flows import api

TREE: dict[str, Any] = {
    "prepare": [
        "source/digits",
        {"name": "transform/subset", "train": 400, "test": 100},
        {"name": "transform/representation", "dim": 16},
    ],
    "train": {
        "model": {"name": "small_cnn", "width": 16},
        "augment": [{"name": "crop_flip", "padding": 1, "flip": 0}],
        "batches": {"name": "shuffled", "size": 50},
        "optimizer": {"name": "adamw", "lr": 2e-3},
        "objective": {"name": "instance_discrimination", "negatives": 128},
        "epochs": 12,
    },
    "compress": {"pruned": [{"name": "prune/magnitude", "sparsity": 0.3}, {"name": "recover/finetune", "epochs": 1}]},
    "attribute": {"saliency": ["gradient", "integrated_gradients"], "agreement": ["rank"], "images": 16},
    "evaluate": [{"name": "accuracy/knn", "k": 20}, "accuracy/top1", "cost/size"],
    "gates": ["accuracy/knn.drop <= 1"],
}


def test_a_representation_runs_to_its_gate(tmp_path: Path) -> None:
    result = api.run(TREE, project=tmp_path, prefect=False, track=False)
    summary = result.summary
    for field in ("knn", "probe"):
        found = summary.find("dense", "accuracy/knn", field)
        assert found is not None
        assert found.value > 0.6
    assert [gate.passed for gate in summary.gates] == [True]
    assert [what for what, _ in summary.skipped] == ["evaluate top1"]
    rank = summary.find("pruned", "rank", "", "gradient")
    assert rank is not None
    assert rank.value > 0.3
