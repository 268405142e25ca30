"""Retraining the weights that are left recovers accuracy that pruning lost."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.compress.prune.magnitude import Magnitude
from assay.plugins.compress.recover.finetune import Finetune
from assay.plugins.contract import Ask, Context, Data, DataSpec, Result, Split, Trained

SEEDS = (0, 1, 2)


def digits() -> Data:
    from sklearn.datasets import load_digits

    found = load_digits()
    x, y = (found.images[:, None] / 16).astype(np.float32), found.target
    order = np.random.default_rng(0).permutation(len(x))
    parts = {"train": order[:1400], "test": order[1400:]}
    spec = DataSpec(shape=(1, 8, 8), classes=tuple("0123456789"))
    return Data(spec, {name: Split({"x": x[at], "y": y[at]}) for name, at in parts.items()})


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        first = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(*first, nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.head = nn.Linear(32 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).flatten(1))


def steps(model: nn.Module, data: Data, epochs: int, seed: int, after: Callable[[], None] | None = None) -> nn.Module:
    """Plain training with Adam, in place."""
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    train = data.train.batch(slice(0, len(data.train)))
    model.train()
    for _ in range(epochs):
        for at in torch.randperm(len(data.train)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train.x[at]), train.y[at]).backward()
            optimizer.step()
            if after is not None:
                after()
    return model.eval()


def trained(data: Data, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return steps(Net(), data, 8, seed)


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    test = data.test.batch(slice(0, len(data.test)))
    return float((model(test.x).argmax(1) == test.y).double().mean())


def context(data: Data, seed: int) -> Context:
    return Context(rng=torch.Generator().manual_seed(seed), spec=data.spec, seed=seed)


class SmallLab:
    """Trains the parent on with plain Adam, restoring a constraint after each step."""

    def __init__(self, parent: nn.Module, data: Data, restore: Callable[[nn.Module], Callable[[], None] | None]):
        self.parent, self.data, self.restore = parent, data, restore
        self.recipe: Mapping[str, Any] = {}

    def train(self, asks: Sequence[Ask]) -> list[Trained]:
        done = []
        for ask in asks:
            assert ask.start == "parent"
            model = copy.deepcopy(self.parent)
            steps(model, self.data, ask.changes["epochs"], 0, self.restore(model))
            done.append(Trained(model, [{"epoch": 1}], lambda name, model=model: model, [], self.data))  # type: ignore[misc]
        return done

    def new_model(self, seed: int) -> nn.Module:
        raise NotImplementedError

    def evaluate(self, model: nn.Module, evaluator: str | Mapping[str, Any]) -> Result:
        raise NotImplementedError


@pytest.mark.claim
def test_finetuning_recovers_what_pruning_lost() -> None:
    data = digits()
    found: dict[str, list[float]] = {"dense": [], "pruned": [], "tuned": []}
    prune, tune = Magnitude(sparsity=0.9), Finetune(epochs=2)
    for seed in SEEDS:
        dense = trained(data, seed)
        ctx = context(data, seed)
        masks = prune.fit(dense, data, ctx)
        pruned = prune.apply(dense, masks)
        lab = SmallLab(pruned, data, lambda model, masks=masks: prune.constraint(model, masks))  # type: ignore[misc]
        record = tune.fit(pruned, data, ctx, lab=lab)
        tuned = tune.apply(pruned, record)
        tuned.load_state_dict(dict(record.weights or {}))
        assert torch.equal(tuned.head.weight == 0, pruned.head.weight == 0)
        for name, model in (("dense", dense), ("pruned", pruned), ("tuned", tuned)):
            found[name].append(accuracy(model, data))
    for dense_, pruned_, tuned_ in zip(*found.values()):
        assert dense_ - pruned_ > 0.1, found
        assert dense_ - tuned_ < 0.3 * (dense_ - pruned_), found
