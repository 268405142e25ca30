"""Run as a process: a whole small run on a device that is not the CPU (`elsewhere`), beside the same run on the CPU.

Prints one line of JSON: every number of both runs, and whether a training that was interrupted on the device ends
like one that was not. Its argument is a folder for the projects.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import elsewhere

from assay.flows import api, session
from assay.plugins.contract import AssayError
from assay.tasks import training
from assay.tasks.artifacts import load_model
from assay.tasks.cells import Cell
from assay.tasks.compute import Outcome, compute_one
from assay.tasks.job import Job, prepare_process
from assay.tasks.results import summarise
from assay.tasks.status import needed, statuses

TREE: dict[str, Any] = {
    "seed": 0,
    "prepare": ["source/digits", {"name": "transform/subset", "train": 200, "test": 60}, "transform/blockmnist"],
    "datasets": {"noisy": ["source/digits", {"name": "transform/label_noise"}, "transform/blockmnist"]},
    "train": {
        "model": {"name": "small_cnn", "width": 8},
        "optimizer": {"name": "adamw", "lr": 0.02},
        "batches": {"name": "shuffled", "size": 32},
        "around": ["clip", {"name": "ema", "decay": 0.8}],
        "channels_last": True,
        "epochs": 6,
    },
    "compress": {
        "pruned": [{"name": "prune/magnitude", "sparsity": 0.5}, {"name": "recover/finetune", "epochs": 1}],
        "pruned-int8": [
            {"name": "prune/magnitude", "sparsity": 0.5},
            {"name": "recover/finetune", "epochs": 1},
            {"name": "quantize/int8_static", "examples": 64},
        ],
    },
    "attribute": {
        "saliency": ["gradient", {"name": "integrated_gradients", "steps": 4}],
        "agreement": ["rank"],
        "audit": ["mask_share", {"name": "deletion", "steps": 4}, {"name": "randomisation", "stages": 2}],
        "images": 16,
    },
    "evaluate": ["accuracy/top1", "calibration/ece", {"name": "ood/mahalanobis", "ood": "noisy"}, "cost/size"],
}


class Killed(AssayError):
    """Stands for the process's end."""


def finish(cell: Cell, found: api.Session) -> None:
    """Computes one cell in this process, and first the trainings that it asks for."""
    outcome: Outcome = compute_one(cell, found.store, found.downloads, "test")
    if outcome.status == "pending":
        for asked in outcome.pending:
            finish(Cell.from_json(asked), found)
        outcome = compute_one(cell, found.store, found.downloads, "test")
    assert outcome.status in ("done", "hit"), f"{outcome.message}\n{outcome.trace}"


def run(folder: Path, device: str) -> api.Session:
    """The run on one device, finished."""
    session.resolve_device = lambda wanted, elsewhere=None: device
    found = api.open_session(TREE, project=folder)
    api.materialise(found)
    for key in needed(found.plan, statuses(found.plan, found.store, {})):
        finish(found.plan.cells[key], found)
    return found


def rows(found: api.Session) -> dict[str, Any]:
    """Every number, or why there is none."""
    return {
        f"{row.model} {row.saliency} {row.method} {row.field}": row.reason or row.value
        for row in summarise(found.plan, found.store).rows
    }


def resumed(found: api.Session, folder: Path) -> bool:
    """Whether the dense training, interrupted twice, ends with the weights of the run's own."""
    ref = found.plan.models["dense"]
    cell = found.plan.cells[ref.key]
    inputs = {role: found.store.folder(at.slot, at.key) for role, at in cell.inputs.items()}
    out = folder / "artifact"
    out.mkdir(parents=True)
    training.CHECKPOINT_SECONDS = -1.0
    for stop in (3, 9, None):

        def progress(done: int, total: int, note: str, stop: int | None = stop) -> None:
            if done == stop:
                raise Killed

        prepare_process(int(cell.spec["seed"]), 1)
        torch.randn(7)
        try:
            training.train(Job(cell.spec, inputs, out, folder, torch.device(cell.env.device), progress=progress))
        except Killed:
            continue
    whole, again = (load_model(at).state_dict() for at in (found.store.folder(ref.slot, ref.key), out))
    return all(torch.equal(value, again[name]) for name, value in whole.items())


if __name__ == "__main__":
    torch.set_num_threads(1)
    elsewhere.register()
    root = Path(sys.argv[1])
    on_cpu = rows(run(root / "cpu", "cpu"))
    there = run(root / "there", elsewhere.NAME)
    print(json.dumps({"cpu": on_cpu, "there": rows(there), "resumed": resumed(there, root / "resumed")}))
