"""A training that was interrupted, at any step, goes on to the same bytes as one that was not."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assay.plugins import registry
from assay.plugins.contract import Data, DataSpec, Split
from assay.plugins.testing.base import context
from assay.tasks import training
from assay.tasks.artifacts import save_data
from assay.tasks.askable import effective, problem_name
from assay.tasks.cells import recipe_spec
from assay.tasks.checkpoint import load_checkpoint, save_checkpoint
from assay.tasks.job import MODEL, Job, prepare_process
from assay.tasks.params import Params, validate

EPOCHS, BATCH, EXAMPLES = 3, 16, 70

PREPARE: dict[str, list[Any]] = {
    "images": ["source/digits", "transform/validation_split"],
    "draws": ["source/digits", "transform/generation"],
    "embeddings": ["source/digits", {"name": "transform/representation", "dim": 4}],
    "domains": ["source/digits", "transform/domain_shift"],
    "degraded": ["source/digits", "transform/degrade"],
    "signals": ["source/digits", "transform/signals"],
    "values": [{"name": "source/friedman1", "train": EXAMPLES, "test": 20}],
    "label maps": [{"name": "source/shapes", "size": 8, "train": EXAMPLES, "test": 20}],
}
"""The data sets that a recipe's `data` names: `images` where it names none. Random images stand for the digits."""

RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "sgd with momentum": {"optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}},
    "cosine": {"schedule": {"name": "cosine", "warmup": 0.2}},
    "ema": {"around": [{"name": "ema", "decay": 0.9}]},
    "sam": {"around": ["sam"]},
    "clip and ema": {"around": [{"name": "clip", "max_norm": 0.5}, "ema"]},
    "adversarial": {"around": [{"name": "adversarial", "steps": 2}]},
    "mixup": {"augment": ["mixup"]},
    "crop_flip": {"augment": ["crop_flip"]},
    "mixup, sam and ema": {"augment": ["mixup"], "around": ["sam", "ema"]},
    "spectral decoupling": {"penalty": ["spectral_decoupling"]},
    "batch norm": {"model": {"name": "small_cnn", "width": 8}},
    "vit": {"model": {"name": "vit", "dim": 8, "depth": 1, "heads": 2}},
    "bf16": {"precision": "bf16"},
    "adahessian": {"optimizer": "adahessian"},
    "upgrad": {"around": ["upgrad"]},
    "stablemax": {"objective": "stablemax"},
    "orthograd": {"around": ["orthograd"]},
    "prospect": {"around": [{"name": "prospect", "level": 0.3}]},
    "gradient reversal": {"penalty": ["gradient_reversal"]},
    "sdat": {"penalty": ["gradient_reversal"], "around": ["sdat"]},
    "deep supervision": {"penalty": ["deep_supervision"], "model": {"name": "mlp", "hidden": [8, 8]}},
    "causirl": {"penalty": ["causirl"]},
    "flow matching": {
        "data": "draws",
        "model": {"name": "time_unet", "width": 8, "depth": 1},
        "objective": "flow_matching",
    },
    "ddpm": {
        "data": "draws",
        "model": {"name": "time_mlp", "width": 8, "depth": 1},
        "objective": "ddpm",
        "around": ["ema"],
    },
    "wgan": {
        "data": "draws",
        "model": {"name": "gan", "width": 8, "depth": 1},
        "learner": {"name": "wgan", "n_critic": 2},
        "optimizer": {"name": "rmsprop", "lr": 0.001},
        "around": ["ema"],
    },
    "direct feedback alignment": {"learner": "direct_feedback_alignment"},
    "forward gradient": {"learner": {"name": "forward_gradient", "directions": 2}, "around": ["sam"]},
    "forward-forward": {"learner": "forward_forward", "augment": ["mixup"]},
    "grownet": {"learner": {"name": "grownet", "stages": 3}, "around": ["ema"]},
    "implicit differentiation": {"learner": {"name": "implicit_diff", "every": 2, "terms": 2}},
    "diffusion_noise": {"augment": ["diffusion_noise"]},
    "masked image modelling": {
        "model": {"name": "vit", "dim": 8, "depth": 1, "heads": 2},
        "objective": "masked_image_modelling",
    },
    "hybrid distillation": {
        "model": {"name": "vit", "dim": 8, "depth": 1, "heads": 2},
        "objective": {"name": "hybrid_distillation", "heads": 2},
        "models": {"teacher": "wide", "mim_teacher": "wide"},
    },
    "channels_last": {"model": {"name": "small_cnn", "width": 8}, "channels_last": True},
    "arcface": {"data": "embeddings", "objective": {"name": "arcface", "centres": 2}},
    "instance discrimination": {
        "data": "embeddings",
        "objective": {"name": "instance_discrimination", "negatives": 8, "proximal": 1.0},
        "augment": ["crop_flip"],
    },
    "supervised contrastive with bound classes": {
        "data": "embeddings",
        "objective": "supervised_contrastive",
        "batches": "class_bound",
        "augment": ["two_views", "crop_flip"],
    },
    "gradient reversal without the target's labels": {
        "data": "domains",
        "penalty": ["gradient_reversal"],
        "batches": "per_domain",
    },
    "rddm": {"data": "degraded", "model": {"name": "rddm_unet", "width": 8}, "objective": "rddm"},
    "maml": {
        "data": "signals",
        "model": {"name": "siren", "hidden": [8]},
        "learner": {"name": "meta_init_inr", "steps": 2},
    },
    "reptile": {
        "data": "signals",
        "model": {"name": "siren", "hidden": [8]},
        "learner": {"name": "meta_init_inr", "algorithm": "reptile"},
    },
    "convex program": {
        "data": "values",
        "learner": {"name": "convex_relu_admm", "gates": 4},
        "optimizer": "adamw",
    },
    "betti matching": {"data": "label maps", "model": {"name": "unet", "width": 4}, "penalty": ["betti_matching"]},
}

TEACHER: dict[str, Any] = {"model": {"name": "vit", "dim": 16, "depth": 2, "heads": 2}, "epochs": 0}


class Killed(Exception):
    """Stands for the process's end."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set artifact for each of PREPARE, and in `teacher` a training on the images."""
    folder = tmp_path_factory.mktemp("data")
    for name, steps in PREPARE.items():
        save_data(folder / name, prepared(validate({"prepare": steps, "train": {"model": "mlp"}}).prepare))
    train(folder / "teacher", folder, TEACHER)
    return folder


def images() -> Data:
    """Random images of random classes, of two domains."""
    rng = np.random.default_rng(0)
    splits = {
        name: Split({"x": rng.random((n, 1, 8, 8), dtype=np.float32), "y": np.arange(n) % 4, "group": np.arange(n) % 2})
        for name, n in (("train", EXAMPLES), ("validation", 20), ("test", 20))
    }
    return Data(DataSpec(shape=(1, 8, 8), classes=tuple("abcd")), splits)


def prepared(steps: Sequence[Any]) -> Data:
    """What a source and transforms make."""
    source, *transforms = steps
    made = images() if source.method_name() == "digits" else source.load(context(images().spec))
    for transform in transforms:
        if transform.method_name() != "validation_split":  # the images have one
            made = transform.apply(made, transform.fit(made, context(made.spec)))
    return made


def recipe(changes: dict[str, Any]) -> dict[str, Any]:
    """A recipe as it stands in a cell's spec."""
    train = {"model": {"name": "mlp", "hidden": [8]}, "epochs": EPOCHS, "keep": [0, 1, 2, "last"], **changes}
    train.setdefault("optimizer", {"name": "adamw", "lr": 0.01})
    train["batches"] = {"name": train.get("batches", "shuffled"), "size": BATCH}
    prepare = PREPARE[train.pop("data", "images")]
    params: Params = validate({"prepare": prepare, "train": train, "trainings": {"wide": TEACHER}})
    return recipe_spec(effective(params)[0].train, problem_name(params.prepare))


def train(folder: Path, data: Path, changes: dict[str, Any], stop_at: int | None = None) -> int:
    """One process's share of a training: to its end, or until just after step `stop_at`; how many steps it has."""
    steps = 0

    def progress(done: int, total: int, note: str) -> None:
        nonlocal steps
        steps = total
        if done == stop_at:
            raise Killed

    work, out, spec = folder, folder / "artifact", recipe(changes)
    out.mkdir(parents=True, exist_ok=True)
    roles = registry.load(spec["objective"]["id"]).card.roles
    inputs = {"data": data / changes.get("data", "images")}
    inputs |= {f"{MODEL}{role}": data / "teacher" / "artifact" for role in roles}
    prepare_process(0, 1)
    torch.randn(random.Random(str(stop_at)).randrange(99))  # no process finds the global generator as another
    training.train(Job({"recipe": spec, "seed": 0}, inputs, out, work, progress=progress))
    return steps


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of the artifact."""
    out = folder / "artifact"
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("seconds", [-1.0, 1e9], ids=["checkpoint at every step", "checkpoint at every epoch"])
@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES.keys())
def test_same_bytes(
    changes: dict[str, Any], seconds: float, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = train(tmp_path / "whole", data, changes)
    expected = contents(tmp_path / "whole")
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", seconds)
    for at in sorted(random.Random(f"{changes}{seconds}").sample(range(1, steps), 3)):
        with pytest.raises(Killed):
            train(tmp_path / "killed", data, changes, stop_at=at)
    train(tmp_path / "killed", data, changes)
    assert contents(tmp_path / "killed") == expected
    assert {f"checkpoints/epoch-{i:05d}.safetensors" for i in (0, 1, 2, 3)} <= set(expected)


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler")
def test_same_bytes_compiled(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the interruption lies just before the last, smaller batch: that one is compiled first then."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    changes = {"compile": True}
    train(tmp_path / "whole", data, changes)
    per_epoch = -(-EXAMPLES // BATCH)
    for at in (per_epoch - 1, 2 * per_epoch - 2):
        with pytest.raises(Killed):
            train(tmp_path / "killed", data, changes, stop_at=at)
    train(tmp_path / "killed", data, changes)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_the_comparison_can_fail(data: Path, tmp_path: Path) -> None:
    """Without its checkpoint's optimizer a resumed training ends elsewhere: the bytes would tell."""
    train(tmp_path / "whole", data, {})
    with pytest.raises(Killed):
        train(tmp_path / "killed", data, {}, stop_at=8)
    resume = tmp_path / "killed" / "resume.safetensors"
    saved = load_checkpoint(resume)
    for optimizer in saved["optimizers"].values():
        optimizer["state"] = {}
    save_checkpoint(resume, saved)
    train(tmp_path / "killed", data, {})
    assert contents(tmp_path / "killed") != contents(tmp_path / "whole")
