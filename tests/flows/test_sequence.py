"""Sequences and tokens end to end: what takes numbers that have gradients answers with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assay.flows import api
from assay.plugins.contract import AssayError

TREE: dict[str, Any] = {
    "prepare": [{"name": "source/brackets", "pairs": 5, "train": 600, "test": 64}],
    "train": {
        "model": {"name": "transformer", "dim": 32},
        "batches": {"name": "shuffled", "size": 32},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "epochs": 6,
    },
    "compress": {"pruned": [{"name": "prune/magnitude", "sparsity": 0.5}], "int8": ["quantize/int8_static"]},
    "attribute": {
        "saliency": ["gradient", "integrated_gradients", "grad_cam"],
        "agreement": ["rank"],
        "audit": ["mask_share", "randomisation"],
        "images": 16,
    },
    "evaluate": ["accuracy/next_token", "cost/size", {"name": "cost/latency", "batches": [1], "repeats": 3}],
    "gates": ["accuracy/next_token.drop <= 1"],
}


def test_a_sequence_runs_to_its_gate(tmp_path: Path) -> None:
    result = api.run(TREE, project=tmp_path, prefect=False, track=False)
    summary = result.summary
    found = {model: summary.find(model, "accuracy/next_token") for model in ("dense", "pruned", "int8")}
    assert found["dense"] is not None
    assert found["dense"].value > 0.5
    assert found["int8"] is not None
    assert abs(found["int8"].value - found["dense"].value) < 0.1
    latency = summary.find("int8", "cost/latency")
    assert latency is not None
    assert latency.value > 0
    assert [gate.passed for gate in summary.gates] == [True, True]
    agreement = summary.find("pruned", "rank", "", "gradient")
    assert agreement is not None
    assert agreement.reason == "its inputs are tokens, which have no gradient"
    assert "tokens, which have no gradient" in result.report.read_text(encoding="utf-8")


def test_tokens_are_classified(tmp_path: Path) -> None:
    tree = {
        **TREE,
        "prepare": [{"name": "source/modular_addition", "p": 7, "fraction": 0.6}],
        "train": {**TREE["train"], "epochs": 40},
        "compress": {"pruned": [{"name": "prune/magnitude", "sparsity": 0.1}]},
        "attribute": {"saliency": []},
        "evaluate": ["accuracy/top1", "calibration/ece", {"name": "robustness/pgd", "steps": 1}],
        "gates": [],
    }
    summary = api.run(tree, project=tmp_path, prefect=False, track=False).summary
    assert summary.find("dense", "accuracy/top1") is not None
    attacked = summary.find("dense", "robustness/pgd")
    assert attacked is not None
    assert "tokens" in attacked.reason


def test_numbers_are_not_made_of_tokens(tmp_path: Path) -> None:
    tree = {**TREE, "prepare": [*TREE["prepare"], "transform/normalize"]}
    expected = r"transform/normalize takes image or features; the data set's inputs are tokens"
    with pytest.raises(AssayError, match=expected) as raised:
        api.run(tree, project=tmp_path, prefect=False, track=False)
    assert raised.value.code == 2
