"""Any combination: methods drawn at random, run through every stage on small digits, in this process."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from assay.flows import api
from assay.plugins import registry
from assay.tasks.artifacts import load_model
from assay.tasks.cells import Cell, learner_faults
from assay.tasks.compute import Outcome, compute_one
from assay.tasks.results import summarise
from assay.tasks.status import needed, statuses

COUNT = 40
MODELS: list[Any] = [
    {"name": "mlp", "hidden": [24, 16]},
    {"name": "small_cnn", "width": 8},
    {"name": "resnet", "depth": 8},
    {"name": "vit", "patch": 4, "dim": 16, "depth": 1, "heads": 2},
]
LINKS = [
    {"name": "prune/magnitude", "sparsity": 0.6},
    {"name": "prune/channels", "ratio": 0.5, "round_to": 4},
    {"name": "factorize/svd"},
    {"name": "recover/finetune", "epochs": 1},
    {"name": "recover/distill", "epochs": 1},
]
WANTING = {"group", "activations"}
"""What the images of the digits, or a network that is drawn, may not have."""


def names(slot: str) -> list[str]:
    """Every method of a slot that is installed with Assay and can classify plain labelled images by itself, whatever
    the network is."""
    entries = [e for e in registry.index().entries.values() if e.slot == slot and e.dist == "assay"]
    cards = {e.id.rsplit("/", 1)[1]: registry.load(e.id).card for e in entries}
    fit = {n: c for n, c in cards.items() if {"any", "classification"} & set(c.problems) and not WANTING & set(c.needs)}
    return [n for n, c in fit.items() if not c.roles]


def onion(optimizer: str, around: list[str]) -> list[str]:
    """The arounds in an order that they allow: at most one that needs gradients apart, innermost, and none where
    the optimizer differentiates the gradients."""
    if "graph" in registry.load(f"train/optimizer/{optimizer}").card.needs:
        return []
    apart = [name for name in around if "apart" in registry.load(f"train/around/{name}").card.needs]
    return [*(name for name in around if name not in apart), *apart[:1]]


def draw(seed: int) -> dict[str, Any]:
    """A random recipe: every slot drawn from what is there."""
    rng = random.Random(seed)
    chain = [dict(rng.choice(LINKS)) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.5:
        chain.append({"name": "quantize/int8_static", "examples": 32})
    noise = {"name": "transform/label_noise", "fraction": 0.1}
    prepare = [
        "source/digits",
        {"name": "transform/subset", "train": 96, "test": 40},
        *rng.sample(["transform/blockmnist", "transform/normalize", noise], rng.randint(0, 3)),
    ]
    optimizer = rng.choice(names("train/optimizer"))
    return {
        "seed": seed,
        "device": "cpu",
        "prepare": prepare,
        # Further data are served through the records of the model's own, which are normalize's.
        "datasets": {"far": [step for step in prepare if step != "transform/normalize"]},
        "train": {
            "model": rng.choice(MODELS),
            "epochs": 1,
            "batches": {"name": "shuffled", "size": 32},
            "objective": rng.choice(names("train/objective")),
            "penalty": rng.sample(names("train/penalty"), rng.randint(0, 1)),
            "augment": rng.sample(names("train/augment"), rng.randint(0, 2)),
            "around": onion(optimizer, rng.sample(names("train/around"), rng.randint(0, 2))),
            "optimizer": optimizer,
            "schedule": rng.choice(names("train/schedule")),
            "precision": rng.choice(["fp32", "fp32", "bf16"]),
            "channels_last": rng.choice([False, True]),
        },
        "compress": {"variant": chain},
        "attribute": {
            "saliency": rng.sample(names("attribute/saliency"), 2),
            "agreement": rng.sample(names("attribute/agreement"), 1),
            "audit": rng.sample(names("attribute/audit"), 1),
            "images": 12,
        },
        "evaluate": [
            "accuracy/top1",
            *rng.sample(
                [
                    "calibration/ece",
                    {"name": "robustness/pgd", "steps": 2, "examples": 16},
                    "cost/size",
                    {"name": "cost/latency", "repeats": 3, "warmup": 1},
                    {"name": "ood/msp", "ood": "far"},
                    {"name": "ood/mahalanobis", "ood": "far"},
                ],
                2,
            ),
        ],
        "gates": ["accuracy/top1.drop <= 0.9"],
    }


def unhonoured(learner: Any, slot: str, name: str) -> bool:
    """Whether a learner cannot honour a method."""
    return any(learner_faults(learner, {slot: [registry.make(f"train/{slot}", name)]}))


def with_learner(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """The recipe for another learner than backprop: with what it honours, on a chain of dense layers."""
    learner = registry.make("train/learner", name)
    train = {**tree["train"], "learner": name, "model": MODELS[0], "epochs": 3}
    asked: dict[str, list[Any]] = {slot: train[slot] for slot in ("penalty", "around")}
    asked["optimizer"] = [train["optimizer"]]
    for slot, methods in asked.items():
        asked[slot] = [m for m in methods if not unhonoured(learner, slot, m)]
    if any("apart" in registry.load(f"train/around/{name}").card.needs for name in asked["around"]):
        asked["penalty"] = []  # of some penalties a batch has one number, and nothing apart
    train |= {**asked, "optimizer": (asked["optimizer"] or ["adamw"])[0]}
    kept = {slot: value for slot, value in train.items() if slot not in learner.card.refuses}
    split = ["transform/validation_split"] if "validation" in learner.card.needs else []
    far = [*tree["datasets"]["far"], *split]
    # Channels of layers whose activity is the answer cannot go, nor can one objective be put for another.
    cannot = {"prune/channels", *(["recover/distill"] if "objective" in learner.card.refuses else [])}
    chain = [link for link in tree["compress"]["variant"] if link["name"] not in cannot] or [dict(LINKS[0])]
    changes = {"prepare": [*tree["prepare"], *split], "datasets": {"far": far}, "compress": {"variant": chain}}
    return {**tree, **changes, "train": kept}


def compute_all(session: api.Session) -> None:
    """Computes a plan here, without a pool."""
    todo = needed(session.plan, statuses(session.plan, session.store, {}))
    for key in todo:
        finish(session.plan.cells[key], session)


def finish(cell: Cell, session: api.Session) -> None:
    """Computes one cell, and first the trainings that it asks for."""
    outcome: Outcome = compute_one(cell, session.store, session.downloads, "test")
    if outcome.status == "pending":
        for asked in outcome.pending:
            finish(Cell.from_json(asked), session)
        outcome = compute_one(cell, session.store, session.downloads, "test")
    assert outcome.status in ("done", "hit"), f"{outcome.message}\n{outcome.trace}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One project for all, so that the data are fetched once."""
    return tmp_path_factory.mktemp("combinations")


@pytest.mark.parametrize("seed", range(COUNT))
def test_combination(seed: int, folder: Path) -> None:
    passes_through(draw(seed), folder)


@pytest.mark.parametrize("seed", range(COUNT, COUNT + 3))
@pytest.mark.parametrize("name", [name for name in names("train/learner") if name != "backprop"])
def test_combination_with_a_learner(name: str, seed: int, folder: Path) -> None:
    passes_through(with_learner(draw(seed), name), folder)


def passes_through(tree: dict[str, Any], folder: Path) -> None:
    """Runs every stage, and looks at what comes out."""
    session = api.open_session(tree, project=folder)
    api.materialise(session)
    compute_all(session)
    summary = summarise(session.plan, session.store)
    headline = summary.find("variant", "accuracy/top1")
    assert headline is not None
    assert 0 <= headline.value <= 1
    for row in summary.rows:
        assert row.reason or math.isfinite(row.value), row
    ref = session.plan.models["variant"]
    model = load_model(session.store.folder(ref.slot, ref.key))
    assert torch.isfinite(model(torch.rand(2, *model_shape(session)))).all()


def model_shape(session: api.Session) -> tuple[int, ...]:
    """The shape of one input."""
    from assay.tasks.artifacts import load_data

    ref = session.plan.data["main"]
    return load_data(session.store.folder(ref.slot, ref.key)).spec.shape
