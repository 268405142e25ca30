"""A change recomputes exactly the cells that depend on it, and `plan` says why."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import assay
from tests.conftest import SMALL

TREE: dict[str, Any] = {
    **copy.deepcopy(SMALL),
    "compress": {
        "pruned": [{"name": "prune/magnitude", "sparsity": 0.5}, {"name": "recover/finetune", "epochs": 1}],
        "twice": [{"name": "prune/magnitude", "sparsity": 0.5}, {"name": "factorize/svd"}],
    },
}


class Ran:
    """A finished run of a copy of the code, so that the code can be edited."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.code = folder / "code"
        shutil.copytree(Path(assay.__file__).parent, self.code / "assay", ignore=shutil.ignore_patterns("__pycache__"))
        self.write(TREE)
        self.assay("run", "--no-server")

    def write(self, tree: dict[str, Any]) -> None:
        (self.folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")

    def assay(self, *arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(self.code), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "assay.flows.cli", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode in (0, 3), done.stderr
        return done.stdout

    def plan(self, *arguments: str) -> dict[str, str]:
        """Label → reason of the cells that would run."""
        cells = json.loads(self.assay("plan", "--json", *arguments))["cells"]
        return {cell["cell"]: cell["why"] for cell in cells if cell["run"]}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return Ran(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def edit(ran: Ran) -> Any:
    """Edits a file of the code for one test."""
    kept: list[tuple[Path, str]] = []

    def change(name: str, before: str, after: str) -> None:
        path = ran.code / "assay" / name
        text = path.read_text(encoding="utf-8")
        assert before in text, name
        kept.append((path, text))
        path.write_text(text.replace(before, after, 1), encoding="utf-8")

    yield change
    for path, text in kept:
        path.write_text(text, encoding="utf-8")


def stages(labels: Any) -> set[str]:
    """The first words of labels."""
    return {label.split()[0] for label in labels}


def test_nothing_changed(ran: Ran) -> None:
    assert ran.plan() == {}


def test_a_link_parameter(ran: Ran) -> None:
    todo = ran.plan("--set", "compress.pruned.0.sparsity=0.6")
    assert "compress.sparsity 0.5 → 0.6" in todo["compress pruned 0 prune/magnitude"].replace(
        "compress.method", "compress"
    )
    assert all("pruned" in label for label in todo), todo
    assert not any(label.startswith("train") for label in todo)


def test_the_learning_rate(ran: Ran) -> None:
    todo = ran.plan("--set", "train.optimizer.lr=0.02")
    assert "train.optimizer.lr 0.01 → 0.02" in todo["train dense"]
    assert "prepare" not in stages(todo)
    assert {"train", "compress", "attribute", "agree", "evaluate"} <= stages(todo)


def test_variants_share_equal_links(ran: Ran) -> None:
    todo = ran.plan("--force", "*")
    assert sum("prune/magnitude" in label for label in todo) == 1


def test_the_training_seed(ran: Ran) -> None:
    todo = ran.plan("--set", "train.seed=5")
    assert "train.seed 0 → 5" in todo["train dense"]
    assert "prepare" not in stages(todo)


def test_the_global_seed_reaches_the_data(ran: Ran) -> None:
    assert "prepare 1 transform/subset" in ran.plan("--set", "seed=3")


def test_one_more_saliency_computes_its_own_cells(ran: Ran) -> None:
    todo = ran.plan("--set", "attribute.saliency=[gradient, input_x_gradient]")
    assert todo
    assert all("input_x_gradient" in label for label in todo)


def test_one_more_evaluator_computes_its_own_cells(ran: Ran) -> None:
    todo = ran.plan("--set", "evaluate=[accuracy/top1, calibration/ece]")
    assert set(todo) == {f"evaluate {m} calibration/ece" for m in ("dense", "reseeded-1", "pruned", "twice")}


def test_a_methods_source(ran: Ran, edit: Callable[..., None]) -> None:
    edit("plugins/compress/prune/magnitude.py", "def ", "def unused() -> int:\n    return 7\n\n\ndef ")
    todo = ran.plan()
    assert "source of assay.plugins.compress.prune.magnitude changed" in todo["compress pruned 0 prune/magnitude"]
    assert "train" not in stages(todo)
    assert "evaluate dense accuracy/top1" not in todo


def test_a_docstring_or_comment_changes_nothing(ran: Ran, edit: Callable[..., None]) -> None:
    edit("plugins/compress/prune/magnitude.py", '"""', '"""Now: ')
    assert ran.plan() == {}


def test_a_helper_that_a_method_imports(ran: Ran, edit: Callable[..., None]) -> None:
    edit("plugins/attribute/saliency/_common.py", "\n\n\ndef ", "\n\nUNUSED = 7\n\n\ndef ")
    todo = ran.plan()
    assert stages(todo) == {"attribute", "agree"}
    assert "source of assay.plugins.attribute.saliency._common changed" in todo["attribute dense gradient"]


def test_the_training_loop(ran: Ran, edit: Callable[..., None]) -> None:
    edit("tasks/training.py", "CHECKPOINT_SECONDS = 30.0", "CHECKPOINT_SECONDS = 31.0")
    todo = ran.plan()
    assert "source of assay.tasks.training changed" in todo["train dense"]
    assert "prepare" not in stages(todo)


def test_an_unrelated_method_changes_nothing(ran: Ran) -> None:
    extra = ran.code / "assay" / "plugins" / "compress" / "prune" / "extra.py"
    extra.write_text("VALUE = 1\n", encoding="utf-8")
    try:
        assert ran.plan() == {}
    finally:
        extra.unlink()


def test_the_report_changes_nothing(ran: Ran, edit: Callable[..., None]) -> None:
    edit("tasks/summary.py", "NAN = float", "UNUSED = 1\nNAN = float")
    assert ran.plan() == {}


def test_the_data(ran: Ran) -> None:
    """A data set that was changed is refused until it is added, and is then a new version."""
    import numpy as np

    path = ran.folder / "data" / "digits" / "train.x.npy"
    kept, dvc = path.read_bytes(), (ran.folder / "data" / "digits.dvc").read_bytes()
    x = np.load(path)
    x[0] = 255 - x[0]
    np.save(path, x)
    try:
        environment = {**os.environ, "PYTHONPATH": str(ran.code)}
        command = [sys.executable, "-m", "assay.flows.cli", "plan"]
        done = subprocess.run(command, cwd=ran.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "data/digits was changed since it was added" in done.stderr
        ran.assay("data", "add", "digits")
        todo = ran.plan()
        assert "the data changed" in todo["prepare source/digits"]
        assert {"train", "compress", "attribute", "evaluate"} <= stages(todo)
        versions = yaml.safe_load((ran.folder / "data" / "digits.dvc").read_text())["meta"]["versions"]
        assert len(versions) == 2
        assert ran.plan("--set", f"prepare.0.rev={versions[0][:8]}") == {}
    finally:
        path.write_bytes(kept)
        (ran.folder / "data" / "digits.dvc").write_bytes(dvc)


def test_forcing_one_cell(ran: Ran) -> None:
    todo = ran.plan("--force", "evaluate dense *")
    assert set(todo) == {"evaluate dense accuracy/top1"}


def test_what_a_prediction_means(ran: Ran, edit: Callable[..., None]) -> None:
    edit("plugins/problems/classification.py", "return prediction.argmax(dim=1)\n", "return prediction.argmin(dim=1)\n")
    todo = ran.plan()
    assert "source of assay.plugins.problems.classification changed" in todo["attribute dense gradient"]
    assert {"train", "attribute", "agree", "evaluate"} <= stages(todo)
    assert "prepare" not in stages(todo)
