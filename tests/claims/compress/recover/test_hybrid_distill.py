"""Hybrid distillation (arxiv:2306.15876) on small digits: a student of a supervised teacher's features and of a
masked image modelling teacher's token relations, beside students of either alone.

Measured on test images that are whole: the divergence of the student's attention from the second teacher's, the
distance of its features from the first's, and the accuracy of a linear probe of its features. The last is to be
higher than that of the student of features alone, and is the same: not reproduced.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.compress.recover.hybrid_distill import HybridDistill
from assay.plugins.contract import Ask, Batch, Context, Data, DataSpec, Objective, Result, Split, Trained, tap
from assay.plugins.evaluate.accuracy.knn import probe
from assay.plugins.prepare.source.digits import digits_table
from assay.plugins.registry import make
from assay.plugins.train.model.vit import ViT
from assay.plugins.train.objective.hybrid_distillation import HybridDistillation

SPEC = DataSpec(shape=(1, 8, 8), classes=tuple("0123456789"))
RELATED = [f"layers.block{i}.attention.softmax" for i in (1, 2)]
EPOCHS = 15


def digits(seed: int) -> Data:
    table = digits_table()
    table = table[np.random.default_rng(seed).permutation(len(table))]
    x, y = (table[:, :64].reshape(-1, 1, 8, 8) / 16).astype(np.float32), table[:, 64].astype(np.int64)
    parts = {"train": slice(1200), "test": slice(1200, None)}
    return Data(SPEC, {name: Split({"x": x[at], "y": y[at]}) for name, at in parts.items()})


def vit(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return ViT(patch=2, dim=32, depth=3, heads=4, pool="mean").build(SPEC, context(seed))


def context(seed: int, **models: nn.Module) -> Context:
    return Context(rng=torch.Generator().manual_seed(seed), spec=SPEC, seed=seed, models=models)


def train(
    model: nn.Module,
    data: Data,
    objective: Objective,
    ctx: Context,
    epochs: int,
    loss: Callable[[nn.Module, Batch, Context], Tensor] | None = None,
) -> nn.Module:
    """Plain training with AdamW on batches of 64, its rate falling as a cosine, in place."""
    ctx.own = objective.init(model, data, ctx)
    own = [] if ctx.own is None else list(ctx.own.parameters())
    optimizer = torch.optim.AdamW([*model.parameters(), *own], 2e-3)
    falls = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(data.train) // 64))
    model.train()
    for _ in range(epochs):
        for at in torch.randperm(len(data.train), generator=ctx.rng).split(64):
            ctx.shared.clear()
            optimizer.zero_grad()
            (loss or objective.loss)(model, data.train.batch(at.numpy()), ctx).mean().backward()
            optimizer.step()
            falls.step()
    return model.eval().requires_grad_(False)


class SmallLab:
    """Trains the parent on as it is asked to."""

    def __init__(self, parent: nn.Module, data: Data, models: Mapping[str, nn.Module]):
        self.parent, self.data, self.models = parent, data, models
        self.recipe: Mapping[str, Any] = {}
        self.loss = None

    def train(self, asks: Sequence[Ask]) -> list[Trained]:
        (ask,) = asks
        ctx = context(0, **{role: self.models[name] for role, name in ask.models.items()})
        objective = make("train/objective", ask.changes["objective"])
        model = train(copy.deepcopy(self.parent), self.data, objective, ctx, ask.changes["epochs"])
        return [Trained(model, [{"epoch": 1}], lambda name: model, [], self.data)]

    def new_model(self, seed: int) -> nn.Module:
        raise NotImplementedError

    def evaluate(self, model: nn.Module, evaluator: str | Mapping[str, Any]) -> Result:
        raise NotImplementedError


@torch.no_grad()
def seen(model: nn.Module, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """Attention of the related blocks, and the last tokens."""
    with tap(model, (*RELATED, "layers")) as found:
        model(x)
    return [found[name] for name in RELATED], found["layers"]


def judged(student: nn.Module, models: Mapping[str, nn.Module], data: Data) -> dict[str, float]:
    """KL of attention in nats, smooth L1 distance of features, accuracy of a linear probe."""
    train_, test = (split.batch(slice(0, len(split))) for split in (data.train, data.test))
    attention, tokens = seen(student, test.x)
    wanted, _ = seen(models["mim"], test.x)
    apart = [
        (b * (b.clamp_min(1e-9).log() - a.clamp_min(1e-9).log())).sum(-1).mean() for a, b in zip(attention, wanted)
    ]
    _, target = seen(models["supervised"], test.x)
    _, learned = seen(student, train_.x)
    votes = probe(tokens[:, 1:].mean(1), learned[:, 1:].mean(1), train_.y, 10, 1e-3).argmax(1)
    return {
        "relations": float(torch.stack(apart).mean()),
        "features": float(F.smooth_l1_loss(tokens, target)),
        "probe": float((votes == test.y).double().mean()),
    }


def students(seed: int) -> dict[str, dict[str, float]]:
    data = digits(seed)
    models = {
        "supervised": train(vit(seed), data, make("train/objective", "cross_entropy"), context(seed), 12),
        "mim": train(vit(seed + 100), data, make("train/objective", "masked_image_modelling"), context(seed), 130),
    }
    lab = SmallLab(vit(seed + 200), data, models)
    found = {}
    for name, weight in (("hybrid", 1.0), ("features alone", 0.0)):
        link = HybridDistill(epochs=EPOCHS, teacher="supervised", mim_teacher="mim", alpha=weight, beta=weight)
        found[name] = link.apply(lab.parent, record := link.fit(lab.parent, data, context(seed), lab=lab))
        found[name].load_state_dict(dict(record.weights or {}))
    both = HybridDistillation()

    def related(model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        return sum(both.distances(model, batch, ctx)[1:])  # type: ignore[return-value]

    ctx = context(0, teacher=models["supervised"], mim_teacher=models["mim"])
    found["relations alone"] = train(copy.deepcopy(lab.parent), data, both, ctx, EPOCHS, related)
    return {name: judged(model, models, data) for name, model in found.items()}


@pytest.mark.claim
@pytest.mark.slow
def test_a_student_of_both_is_near_both_but_a_probe_of_it_is_no_more_accurate() -> None:
    gains = []
    for seed in range(3):
        row = students(seed)
        assert row["hybrid"]["relations"] < 0.4 * row["features alone"]["relations"]  # found: 0.20 to 0.23 of it
        assert row["hybrid"]["features"] < 0.7 * row["relations alone"]["features"]  # found: 0.39 to 0.43 of it
        gains.append(row["hybrid"]["probe"] - row["features alone"]["probe"])
    assert np.mean(gains) < 0.02  # found: 0.871, 0.874, 0.871 against 0.886, 0.854, 0.868 of features alone
