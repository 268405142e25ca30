"""The third-party example, built and installed beside Assay: listed, checked, in params.yaml, in a whole run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ASSAY = ("-m", "assay.flows.cli")
PARAMS = {
    "seed": 0,
    "device": "cpu",
    "workers": 1,
    "prepare": ["source/digits", {"name": "transform/subset", "train": 500, "test": 200}],
    "train": {
        "model": {"name": "mlp", "hidden": [32]},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "batches": {"name": "shuffled", "size": 32},
        "epochs": 4,
    },
    "compress": {"coin-flips": [{"name": "prune/random", "sparsity": 0.6}, "recover/finetune"]},
    "attribute": {
        "saliency": [{"name": "occlusion", "size": 2}, "gradient"],
        "agreement": ["rank"],
        "audit": [{"name": "deletion", "steps": 4}],
        "controls": ["random"],
        "images": 24,
    },
    "evaluate": ["accuracy/top1", "cost/size"],
    "gates": ["accuracy/top1.drop <= 0.5", "occlusion:rank >= floor + 0.05"],
}
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "assay-plugin-example"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the example is installed, built from a copy without the network."""
    folder = tmp_path_factory.mktemp("example")
    built = shutil.ignore_patterns("*.egg-info", "build", "__pycache__")
    copy = shutil.copytree(EXAMPLE, folder / "source", ignore=built)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "site"), str(copy)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder / "site"


def run(site: Path, *command: str, folder: Path | None = None) -> str:
    """The output of a Python command that sees the installed example."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    environment["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"  # nobody answers: what is sent stays in the outbox
    command = (sys.executable, *command)
    result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder or site, timeout=300)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def test_its_methods_are_listed_and_stand_in_params_beside_assays_own(site: Path) -> None:
    code = (
        "from assay.plugins import registry\n"
        "from assay.tasks.params import Params\n"
        "mine = [e for e in registry.index().entries.values() if e.dist == 'assay-plugin-example']\n"
        "assert all(e.title and not e.broken for e in mine)\n"
        "print(' '.join(e.id for e in mine))\n"
        "params = Params.model_validate({\n"
        "    'prepare': ['source/digits'],\n"
        "    'train': {'model': 'mlp'},\n"
        "    'compress': {'coin-flips': [{'name': 'prune/random', 'sparsity': 0.8}, 'prune/magnitude']},\n"
        "    'attribute': {'saliency': [{'name': 'occlusion', 'size': 5}, 'gradient']},\n"
        "})\n"
        "print(params.compress['coin-flips'][0].sparsity, params.attribute.saliency[0].size)\n"
    )
    listed, values = run(site, "-c", code).splitlines()
    assert set(listed.split()) == {"attribute/saliency/occlusion", "compress/prune/random"}
    assert values == "0.8 5"


def test_its_own_tests_pass_and_the_suite_on_its_methods(site: Path) -> None:
    tests = ["-p", "no:cacheprovider", "--import-mode=importlib", "-c", str(ROOT / "pyproject.toml")]
    out = run(site, "-m", "pytest", "-q", *tests, str(EXAMPLE / "tests"))
    assert "passed" in out
    assert "skipped" not in out


def test_the_command_lists_and_checks_its_methods(site: Path) -> None:
    rows = json.loads(run(site, *ASSAY, "methods", "list", "--json"))
    found = {row["id"]: row for row in rows if row["distribution"] == "assay-plugin-example"}
    assert set(found) == {"attribute/saliency/occlusion", "compress/prune/random"}
    assert not any(row["broken"] for row in found.values())
    outcomes = json.loads(run(site, *ASSAY, "methods", "check", "assay-plugin-example", "--json"))
    assert {outcome["method"] for outcome in outcomes} == set(found)
    assert all(outcome["ok"] and not outcome["skipped"] for outcome in outcomes)
    assert len(outcomes) > 12


def test_a_run_with_its_saliency_and_its_compressor(site: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False), encoding="utf-8")
    answer = json.loads(run(site, *ASSAY, "run", "--no-server", "--json", folder=tmp_path))
    rows = {(row["model"], row["saliency"], row["method"], row["field"]): row for row in answer["rows"]}
    agreement = rows["coin-flips", "occlusion", "rank", "rank"]
    assert not agreement["reason"]
    assert agreement["floor"] < agreement["value"] <= 1
    for model in ("dense", "coin-flips"):
        assert 0 < rows[model, "occlusion", "deletion", "deletion"]["value"] < 1
    assert rows["dense", "", "accuracy/top1", "top1"]["value"] > 0.8
    assert rows["coin-flips", "", "accuracy/top1", "top1"]["value"] > 0.6
    # Zeros that were drawn stay zero through finetuning: 64 x 32 and 32 x 10 weights, 32 and 10 biases.
    kept = round(0.4 * 64 * 32) + round(0.4 * 32 * 10)
    assert kept <= rows["coin-flips", "", "cost/size", "nonzeros"]["value"] <= kept + 42
    again = json.loads(run(site, *ASSAY, "run", "--no-server", "--json", folder=tmp_path))
    assert again["computed"] == 0
    assert again["rows"] == answer["rows"]
