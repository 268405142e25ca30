"""Problems other than classification with all labels, from their data to the report, through the whole frame."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import assay
from assay.flows import cli
from assay.plugins.contract import AssayError
from assay.tasks.artifacts import load_data

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


def test_a_network_from_a_convex_program(tmp_path: Path) -> None:
    """The learner's own network in the recipe's place: trained, kept along the way, pruned, explained, loaded."""
    result, _ = run(
        tmp_path,
        prepare=[{"name": "source/friedman1", "train": 400, "test": 200}, "transform/normalize"],
        train={
            "model": {"name": "mlp", "hidden": []},
            "learner": {"name": "convex_relu_admm", "gates": 24, "beta": 1.0, "rho": 1.0},
            "batches": {"name": "shuffled", "size": 20},
            "epochs": 6,
            "keep": [1, "last"],
        },
        compress={"pruned": [{"name": "prune/magnitude", "sparsity": 0.1}]},
        attribute={"saliency": ["gradient"], "audit": ["mask_share"], "controls": ["random"], "images": 32},
        evaluate=["accuracy/r2"],
    )
    assert value(result, "dense", "accuracy/r2") > 0.75
    assert value(result, "pruned", "accuracy/r2") == pytest.approx(value(result, "dense", "accuracy/r2"), abs=0.05)


def test_restoration(tmp_path: Path) -> None:
    result, page = run(
        tmp_path,
        prepare=[
            "source/digits",
            {"name": "transform/subset", "train": 600, "test": 100},
            {"name": "transform/degrade", "kind": "noise", "sigma": 0.2},
        ],
        train={
            "model": {"name": "dncnn", "depth": 4, "width": 16},
            "optimizer": {"name": "adamw", "lr": 0.005},
            "batches": {"name": "shuffled", "size": 64},
            "epochs": 4,
        },
        compress={
            "pruned": [{"name": "prune/magnitude", "sparsity": 0.5}, {"name": "recover/finetune", "epochs": 1}],
            "int8": ["quantize/int8_static"],
        },
        attribute={"saliency": ["gradient"], "agreement": ["rank"], "controls": ["random"], "images": 24},
        evaluate=["fidelity/psnr", "fidelity/ssim", "cost/size"],
        gates=["fidelity/psnr.drop <= 1", "fidelity/psnr.gain >= 0"],
    )
    assert result.summary.headline == "fidelity/psnr"
    assert value(result, "dense", "fidelity/psnr") > 16
    gain = next(r for r in result.summary.rows if (r.model, r.field) == ("dense", "gain"))
    assert gain.low > 2
    assert all(gate.passed for gate in result.summary.gates), result.summary.gates
    assert {row.verdict for row in result.summary.rows if row.kind == "agreement" and row.model == "int8"} == {
        "faithful"
    }
    assert "label flipped" not in page.split("Glossary")[0]


def test_residual_diffusion(tmp_path: Path) -> None:
    """Trained by its objective, restored by its sampler, which attributions go through."""
    result, _ = run(
        tmp_path,
        prepare=[
            "source/digits",
            {"name": "transform/subset", "train": 600, "test": 60},
            {"name": "transform/degrade", "kind": "blur", "radius": 1.0},
        ],
        train={
            "model": {"name": "rddm_unet", "width": 8},
            "objective": "rddm",
            "optimizer": {"name": "adamw", "lr": 0.005},
            "batches": {"name": "shuffled", "size": 64},
            "epochs": 6,
        },
        compress={"pruned": [{"name": "prune/magnitude", "sparsity": 0.3}, {"name": "recover/finetune", "epochs": 1}]},
        predict={"name": "rddm", "steps": 3},
        attribute={"saliency": ["gradient"], "agreement": ["rank"], "controls": ["random"], "images": 16},
        evaluate=["fidelity/psnr", "fidelity/ssim"],
        gates=["fidelity/psnr.gain >= 2"],
    )
    assert [gate.passed for gate in result.summary.gates] == [True], result.summary.gates
    assert all(row.value == row.value for row in result.summary.rows), "every question has an answer"


def test_field(tmp_path: Path) -> None:
    result, page = run(
        tmp_path,
        prepare=[{"name": "source/harmonics", "points": 400, "frequency": 1.5}],
        train={
            "model": {"name": "siren", "hidden": [32, 32], "omega": 10.0},
            "optimizer": {"name": "adamw", "lr": 0.002},
            "epochs": 150,
        },
        compress={
            "pruned": [{"name": "prune/magnitude", "sparsity": 0.2}, {"name": "recover/finetune", "epochs": 100}]
        },
        attribute={"saliency": ["gradient"], "agreement": ["rank"], "images": 24},
        evaluate=["fidelity/psnr", "cost/size"],
        gates=["fidelity/psnr.drop <= 6"],
    )
    assert value(result, "dense", "fidelity/psnr") > 25
    assert [gate.passed for gate in result.summary.gates] == [True]
    assert ("attribute", "a field model's prediction has no attribution to its input") in result.summary.skipped
    assert "No maps: a field model" in page


def test_many_signals_with_a_learned_start(tmp_path: Path) -> None:
    tree: dict[str, Any] = {
        "prepare": ["source/digits", {"name": "transform/subset", "train": 400, "test": 60}, "transform/signals"],
        "train": {
            "model": {"name": "siren", "hidden": [24, 24], "omega": 10.0},
            "learner": {"name": "meta_init_inr", "steps": 3, "inner_lr": 0.03},
            "optimizer": {"name": "adamw", "lr": 0.003},
            "batches": {"name": "shuffled", "size": 32},
            "epochs": 6,
        },
        "compress": {"pruned": [{"name": "prune/magnitude", "sparsity": 0.1}]},
        "evaluate": ["fidelity/psnr"],
        "gates": ["fidelity/psnr.drop <= 1"],
    }
    plain, _ = run(tmp_path, **tree)
    fitted, _ = run(tmp_path, **tree, predict={"name": "meta_init_inr", "steps": 3, "lr": 0.03})
    assert value(fitted, "dense", "fidelity/psnr") > value(plain, "dense", "fidelity/psnr") + 1
    assert value(fitted, "dense", "fidelity/psnr") > 12
    assert [gate.passed for gate in fitted.summary.gates] == [True]


def test_a_domain_without_labels(tmp_path: Path) -> None:
    """Batches of both domains, the penalty's own discriminator, and links that train on: scored on the new domain."""
    result, page = run(
        tmp_path,
        prepare=[
            "source/digits",
            {"name": "transform/subset", "train": 600, "test": 200},
            {"name": "transform/domain_shift", "kind": "noise", "sigma": 0.2},
        ],
        train={
            "model": {"name": "mlp", "hidden": [32]},
            "optimizer": {"name": "adamw", "lr": 0.01},
            "batches": {"name": "per_domain", "size": 64},
            "penalty": ["gradient_reversal"],
            "epochs": 10,
        },
        compress={"pruned": [{"name": "prune/magnitude", "sparsity": 0.5}, {"name": "recover/finetune", "epochs": 2}]},
        evaluate=["accuracy/top1"],
        gates=["accuracy/top1.drop <= 0.1"],
    )
    assert value(result, "dense", "accuracy/top1") > 0.75
    assert [gate.passed for gate in result.summary.gates] == [True], result.summary.gates
    assert all(row.value == row.value for row in result.summary.rows), "every question has an answer"
    assert not result.summary.skipped
    assert "accuracy/top1.drop" in page


def test_new_images_pass_the_codec_that_was_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`assay predict` reads files in the size that images had before the codec, and answers as the run did."""
    tree = {
        "device": "cpu",
        "prepare": [
            "source/digits",
            {"name": "transform/subset", "train": 600, "test": 60},
            {"name": "transform/walloc", "levels": 1, "channels": 2, "steps": 100},
        ],
        "train": {"model": {"name": "mlp", "hidden": [32]}, "optimizer": {"name": "adamw", "lr": 0.01}, "epochs": 8},
        "evaluate": ["accuracy/top1"],
    }
    result, _ = run(tmp_path, **tree)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    digits = load_data(tmp_path / "data" / "digits").test
    images = tmp_path / "images"
    images.mkdir()
    for i in range(40):
        Image.fromarray(np.array(digits.fields["x"][i, 0])).save(images / f"{i:02d}.png")
    with pytest.raises(SystemExit) as stop:
        cli.main(["predict", "dense", str(images), "--params", str(tmp_path / "params.yaml"), "--json"])
    out, err = capsys.readouterr()
    assert stop.value.code == 0, err
    rows = json.loads(out)
    right = np.mean([int(row["label"]) == y for row, y in zip(rows, digits.fields["y"], strict=False)])
    assert not any(row["resized"] for row in rows)
    assert right > 0.75
    assert abs(right - value(result, "dense", "accuracy/top1")) < 0.15


def test_a_model_whose_predictions_are_of_another_problem_is_refused(tmp_path: Path) -> None:
    prepare = ["source/digits", {"name": "transform/subset", "train": 60, "test": 30}, "transform/degrade"]
    with pytest.raises(AssayError, match=r"mlp predicts \[0\].*restoration needs \[1, 8, 8\]"):
        run(tmp_path, prepare=prepare, train={"model": "mlp"}, evaluate=["fidelity/psnr"])
