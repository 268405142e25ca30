"""Links that learn from further trainings: which cells depend on a teacher, and a whole run with two of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from assay.flows import api
from assay.tasks.artifacts import load_model
from assay.tasks.cells import Cell
from assay.tasks.compute import compute_one
from assay.tasks.results import summarise
from assay.tasks.status import needed, statuses

VIT = {"name": "vit", "patch": 4, "dim": 16, "depth": 2, "heads": 2}
PRUNED = {"name": "prune/magnitude", "sparsity": 0.5}
TREE: dict[str, Any] = {
    "device": "cpu",
    "prepare": ["source/digits", {"name": "transform/subset", "train": 64, "test": 40}],
    "datasets": {"all": ["source/digits", {"name": "transform/subset", "train": 128, "test": 40}]},
    "trainings": {
        "big": {"model": {"name": "small_cnn", "width": 8}, "epochs": 1, "data": "all"},
        "mim": {"model": VIT, "objective": "masked_image_modelling", "epochs": 1, "data": "all"},
    },
    "train": {"model": VIT, "epochs": 1},
    "compress": {
        "alone": [PRUNED, "recover/finetune"],
        "self": [PRUNED, "recover/distill"],
        "distilled": [PRUNED, {"name": "recover/distill", "teacher": "big"}],
        "hybrid": [PRUNED, {"name": "recover/hybrid_distill", "mim_teacher": "mim", "heads": 2}, "recover/finetune"],
    },
    "evaluate": ["accuracy/top1"],
}


def variants(tree: dict[str, Any], project: Path) -> dict[str, str]:
    """Each variant's key."""
    plan = api.open_session(tree, project=project).plan
    return {name: ref.key for name, ref in plan.models.items()}


@pytest.mark.parametrize(
    ("path", "value", "changed"),
    [
        (("trainings", "big", "epochs"), 2, {"distilled"}),
        (("trainings", "mim", "epochs"), 2, {"hybrid"}),
        (("compress", "self", 1), {"name": "recover/distill", "temperature": 2.0}, {"self"}),
        (("compress", "distilled", 1, "teacher"), "mim", {"distilled"}),
    ],
)
def test_only_what_learned_from_a_teacher_depends_on_it(
    tmp_path: Path, path: tuple[Any, ...], value: Any, changed: set[str]
) -> None:
    other: Any = copy.deepcopy(TREE)
    here = other
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = value
    before, after = variants(TREE, tmp_path), variants(other, tmp_path)
    assert {name for name, key in before.items() if after[name] != key} == changed


def finish(cell: Cell, session: api.Session) -> None:
    """Computes one cell, and first the trainings that it asks for."""
    outcome = compute_one(cell, session.store, session.downloads, "test")
    if outcome.status == "pending":
        for asked in outcome.pending:
            finish(Cell.from_json(asked), session)
        outcome = compute_one(cell, session.store, session.downloads, "test")
    assert outcome.status in ("done", "hit"), f"{outcome.message}\n{outcome.trace}"


def test_a_run_with_teachers(tmp_path: Path) -> None:
    session = api.open_session(TREE, project=tmp_path)
    api.materialise(session)
    for key in needed(session.plan, statuses(session.plan, session.store, {})):
        finish(session.plan.cells[key], session)
    summary = summarise(session.plan, session.store)
    models = {}
    for name in TREE["compress"]:
        found = summary.find(name, "accuracy/top1")
        assert found is not None
        assert 0 <= found.value <= 1
        ref = session.plan.models[name]
        models[name] = load_model(session.store.folder(ref.slot, ref.key))
    weights = {name: model.get_submodule("head").weight for name, model in models.items()}  # type: ignore[misc]
    assert all((weight == 0).any() for weight in weights.values())  # what was pruned holds
    assert not torch.equal(weights["alone"], weights["self"])
    assert not torch.equal(weights["self"], weights["distilled"])
