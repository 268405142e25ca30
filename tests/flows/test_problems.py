"""Problems other than classification, from their data to the report, through the whole frame."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import assay

SEEN = re.compile(r"<(style|script)>.*?</\1>|<[^>]+>", re.DOTALL)


def run(tmp_path: Path, **tree: Any) -> tuple[Any, str]:
    """A run's result and the text of its report page."""
    result = assay.run({"device": "cpu", **tree}, project=tmp_path, prefect=False, track=False)
    pages = sorted(tmp_path.glob("reports/*/report.html"))
    return result, SEEN.sub(" ", pages[-1].read_text(encoding="utf-8"))


def value(result: Any, model: str, name: str) -> float:
    """A number of a model by its method's label."""
    row = result.summary.find(model, name)
    assert row is not None, name
    return float(row.value)


def test_regression(tmp_path: Path) -> None:
    result, page = run(
        tmp_path,
        prepare=["source/friedman1", "transform/normalize"],
        train={
            "model": {"name": "mlp", "hidden": [32]},
            "optimizer": {"name": "adamw", "lr": 0.02},
            "batches": {"name": "shuffled", "size": 64},
            "epochs": 12,
        },
        compress={
            "pruned": [{"name": "prune/magnitude", "sparsity": 0.5}, {"name": "recover/finetune", "epochs": 2}],
            "broken": [{"name": "prune/magnitude", "sparsity": 0.85}],
        },
        attribute={
            "saliency": ["gradient"],
            "agreement": ["rank"],
            "audit": ["mask_share"],
            "controls": ["random"],
            "images": 48,
        },
        evaluate=["accuracy/r2", "accuracy/top1"],
        gates=["accuracy/r2.drop <= 0.1", "gradient:rank >= ceiling - 0.3"],
    )
    assert result.summary.headline == "accuracy/r2"
    assert value(result, "dense", "accuracy/r2") > 0.6
    passed = {(gate.variant, gate.gate): gate.passed for gate in result.summary.gates}
    assert [passed[v, "accuracy/r2.drop <= 0.1"] for v in ("pruned", "broken")] == [True, False]
    assert "no better than chance" in result.summary.collapsed["broken"]
    # The numbers of the first five features are known to matter.
    share = next(r for r in result.summary.rows if (r.model, r.field) == ("dense", "share"))
    assert share.value > 0.65
    assert [what for what, _ in result.summary.skipped] == ["evaluate top1"]
    assert "the data are no images" in page
    assert "for the class" not in page
    assert "label flipped" not in page.split("Glossary")[0]
