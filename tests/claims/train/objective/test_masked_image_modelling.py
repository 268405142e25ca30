"""Masked image modelling (arxiv:2111.09886) on small digits: a transformer that first learned, without labels, what
missing patches look like is finetuned on 100 labelled ones, beside one that is trained on these from scratch, with the
same epochs of labels and the same choice of learning rates. It is no more accurate: not reproduced. In so short a
training on images of sixteen patches its own loss hardly falls below that of each pixel's median, which asks for no
network."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins.contract import Context, Data, DataSpec, Objective, Split
from assay.plugins.prepare.source.digits import digits_table
from assay.plugins.registry import make
from assay.plugins.train.model.vit import ViT

SEEDS = (0, 1, 2)
RATES = (2e-3, 4e-3)
LABELLED = 100
SPEC = DataSpec(shape=(1, 8, 8), classes=tuple("0123456789"))


def digits(seed: int) -> tuple[Split, Split, Split]:
    """1100 digits to train on, 200 to choose learning rates by, 497 to test on."""
    table = digits_table()
    table = table[np.random.default_rng(seed).permutation(len(table))]
    x, y = (table[:, :64].reshape(-1, 1, 8, 8) / 16).astype(np.float32), table[:, 64].astype(np.int64)
    return tuple(Split({"x": x[at], "y": y[at]}) for at in (slice(1100), slice(1100, 1300), slice(1300, None)))  # type: ignore[return-value]


def context(seed: int) -> Context:
    return Context(rng=torch.Generator().manual_seed(seed), spec=SPEC, seed=seed)


def train(
    model: nn.Module, split: Split, objective: Objective, seed: int, epochs: int, lr: float, size: int
) -> nn.Module:
    """A copy after plain training with AdamW on batches of `size`, its rate falling as a cosine."""
    model, ctx = copy.deepcopy(model), context(seed)
    ctx.own = objective.init(model, Data(SPEC, {"train": split}), ctx)
    own = [] if ctx.own is None else list(ctx.own.parameters())
    optimizer = torch.optim.AdamW([*model.parameters(), *own], lr)
    falls = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(split) // size))
    model.train()
    for _ in range(epochs):
        for at in torch.randperm(len(split), generator=ctx.rng).split(size):
            ctx.shared.clear()
            optimizer.zero_grad()
            objective.loss(model, split.batch(at.numpy()), ctx).mean().backward()
            optimizer.step()
            falls.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    batch = split.batch(slice(0, len(split)))
    return float((model(batch.x).argmax(1) == batch.y).double().mean())


def accuracies(seed: int) -> tuple[float, float]:
    """On test digits, from scratch and after masked image modelling, each at the rate that validates best."""
    every, validation, test = digits(seed)
    torch.manual_seed(seed)
    scratch = ViT(patch=2, dim=32, depth=2, heads=4, pool="mean").build(SPEC, context(seed))
    painter = train(scratch, every, make("train/objective", "masked_image_modelling"), seed, 120, 4e-3, 100)
    few, labels = every.take(np.arange(LABELLED)), make("train/objective", "cross_entropy")
    found = []
    for start in (scratch, painter):
        models = [train(start, few, labels, seed, 40, lr, 25) for lr in RATES]
        found.append(max((accuracy(model, validation), accuracy(model, test)) for model in models)[1])
    return found[0], found[1]


@pytest.mark.claim
@pytest.mark.slow
def test_few_labels_go_no_further_after_it() -> None:
    found = [accuracies(seed) for seed in SEEDS]
    print(found)  # 0.716, 0.672, 0.716 from scratch, 0.712, 0.684, 0.718 after it
    gains = [after - scratch for scratch, after in found]
    assert abs(sum(gains)) / len(gains) < 0.02, found
