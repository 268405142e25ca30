"""BlockMNIST's claims through the frame: gradients of plainly trained MLPs leak onto the null block.

The leak is what `mask_share` of `gradient` leaves for the null block. An even map leaks one half.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.flows import api
from assay.plugins.contract import AssayError
from assay.tasks.compute import compute_one
from assay.tasks.results import summarise
from assay.tasks.status import needed, statuses

pytestmark = [pytest.mark.claim, pytest.mark.slow]
SEEDS = (0, 1, 2)
DIGITS = ["source/digits"]
MNIST = ["source/mnist", {"name": "transform/subset", "train": 10000, "test": 2000}]


def tree(seed: int, source: list[Any], signal: str, epochs: int, eps: float) -> dict[str, Any]:
    """The params of one training: adversarial within `eps`, plain where that is 0."""
    return {
        "seed": seed,
        "device": "cpu",
        "prepare": [*source, {"name": "transform/blockmnist", "signal": signal}],
        "train": {
            "model": {"name": "mlp", "hidden": [256]},
            "optimizer": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.0},
            "batches": {"name": "shuffled", "size": 64},
            "around": [{"name": "adversarial", "eps": eps, "steps": 4}] if eps else [],
            "epochs": epochs,
        },
        "attribute": {"saliency": ["gradient"], "audit": ["mask_share"], "controls": [], "images": 512},
        "evaluate": ["accuracy/top1"],
    }


def leaks(folder: Path, source: list[Any], signal: str, epochs: int, eps: float) -> np.ndarray:
    """For each seed the dense model's test accuracy, its leak, and that of an untrained model."""
    rows = []
    for seed in SEEDS:
        session = api.open_session(tree(seed, source, signal, epochs, eps), project=folder)
        try:
            api.materialise(session)
        except AssayError as error:  # no mirror answers
            pytest.skip(str(error))
        for key in needed(session.plan, statuses(session.plan, session.store, {})):
            outcome = compute_one(session.plan.cells[key], session.store, session.downloads, "test")
            assert outcome.status == "done", f"{outcome.message}\n{outcome.trace}"
        found = {(row.model, row.field): row.value for row in summarise(session.plan, session.store).rows}
        rows.append([found["dense", "top1"], 1 - found["dense", "share"], 1 - found["random", "share"]])
    return np.array(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One project, so that data and equal trainings are computed once."""
    return tmp_path_factory.mktemp("blockmnist")


@pytest.mark.parametrize(("source", "epochs", "eps"), [(DIGITS, 15, 0.2), (MNIST, 8, 0.1)], ids=["digits", "mnist"])
def test_gradients_of_plain_training_leak_and_those_of_pgd_training_do_not(
    source: list[Any], epochs: int, eps: float, folder: Path
) -> None:
    plain, robust = (leaks(folder, source, "random", epochs, radius) for radius in (0.0, eps))
    assert plain[:, 0].min() > 0.85
    assert robust[:, 0].min() > 0.75
    assert plain[:, 1].min() > 1 / 3
    assert robust[:, 1].max() < 0.2
    assert (plain[:, 1] / robust[:, 1]).min() > 2
    assert np.abs(np.vstack([plain, robust])[:, 2] - 0.5).max() < 0.03


def test_it_is_the_moving_signal_that_leaks(folder: Path) -> None:
    """The paper's control: with the signal always on top the plain network's gradients hardly leak."""
    moving, fixed = (leaks(folder, DIGITS, signal, 15, 0.0) for signal in ("random", "top"))
    assert fixed[:, 0].min() > 0.9
    assert (moving[:, 1] / fixed[:, 1]).min() > 2.5
