"""A training split that is learned: experts by the recipe, labels that are probabilities, through a whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.flows import api
from assay.plugins.contract import BadInput
from assay.tasks.artifacts import load_data
from assay.tasks.params import validate

LEARNED = {
    "name": "transform/trajectory_matching",
    "labels": "expert",
    "experts": 2,
    "start_epochs": 1,
    "expert_epochs": 1,
    "student_steps": 3,
    "iterations": 3,
    "image_lr": 1.0,
    "student_lr": 0.1,
}
TREE: dict[str, Any] = {
    "device": "cpu",
    "prepare": ["source/digits", {"name": "transform/subset", "train": 200, "test": 60}, LEARNED],
    "train": {
        "model": {"name": "mlp", "hidden": [16]},
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.0},
        "augment": ["mixup"],
        "epochs": 20,
    },
    "evaluate": ["accuracy/top1"],
}


def test_a_learned_training_split_trains(tmp_path: Path) -> None:
    result = api.run(TREE, project=tmp_path, prefect=False, track=False)
    opened = api.open_session(TREE, project=tmp_path)
    ref = opened.plan.data["main"]
    given = load_data(opened.store.folder(ref.slot, ref.key))
    assert given.train.fields["y"].shape == (10, 10)
    np.testing.assert_allclose(given.train.fields["y"].sum(1), 1, rtol=1e-5)
    assert given.train.fields["x"].dtype == np.float32
    assert given.test.fields["x"].dtype == np.uint8
    assert len(given.test) == 60
    assert result.summary.find("dense", "accuracy/top1").n == 60  # type: ignore[union-attr]
    assert result.computed == 7  # the source, two transforms, two experts, the training, the evaluator
    assert api.run(TREE, project=tmp_path, prefect=False, track=False).computed == 0


def test_a_recipe_that_needs_models_is_refused() -> None:
    """They would be trained on data that are not there yet."""
    teacher = {"model": "mlp", "epochs": 1}
    tree = {**TREE, "trainings": {"teacher": teacher}, "train": {**TREE["train"], "models": {"teacher": "teacher"}}}
    with pytest.raises(BadInput, match=r"prepare.2: trajectory_matching trains by the recipe, before there are"):
        validate(tree)
