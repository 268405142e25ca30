"""Small filters matter least: channel pruning against the removal of random channels, without retraining."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.compress.prune.channels import Channels, cut
from assay.plugins.contract import Context, Data, DataSpec, Record, Split

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
        first = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(*first, nn.Conv2d(16, 32, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(32 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).flatten(1))


def steps(model: nn.Module, data: Data, epochs: int, seed: int) -> nn.Module:
    """Training as in the paper, with momentum and weight decay, in place.

    Weight decay is what makes the norms tell filters apart; with batch norms, which free a filter's norm of
    its effect, the same test finds no reliable difference at this size.
    """
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    train = data.train.batch(slice(0, len(data.train)))
    model.train()
    for _ in range(epochs):
        for at in torch.randperm(len(data.train)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train.x[at]), train.y[at]).backward()
            optimizer.step()
    return model.eval()


def trained(data: Data, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return steps(Net(), data, 15, seed)


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    test = data.test.batch(slice(0, len(data.test)))
    return float((model(test.x).argmax(1) == test.y).double().mean())


def context(data: Data, seed: int) -> Context:
    return Context(rng=torch.Generator().manual_seed(seed), spec=data.spec, seed=seed)


def random_channels(record: Record, seed: int) -> dict[str, Tensor]:
    """As many channels of the same layers, drawn at random; readers lose what their writers lose."""
    rng = torch.Generator().manual_seed(seed)
    first, second = (
        torch.randperm(size, generator=rng)[: len(record.tensors[f"layers.{at}.out"])].sort().values
        for at, size in ((0, 16), (3, 32))
    )
    inputs = (second[:, None] * 16 + torch.arange(16)).flatten()
    return {"layers.0.out": first, "layers.3.in": first, "layers.3.out": second, "head.in": inputs}


@pytest.mark.claim
@pytest.mark.parametrize("importance", ["l1", "l2"])
def test_small_filters_cost_less_than_random_ones(importance: str) -> None:
    data = digits()
    small, random = [], []
    for seed in SEEDS:
        model = trained(data, seed)
        link = Channels(ratio=0.5, importance=importance, round_to=1)
        record = link.fit(model, data, context(data, seed))
        small.append(accuracy(link.apply(model, record), data))
        draws = [random_channels(record, 10 * seed + i) for i in range(5)]
        assert all(set(cuts) == set(record.tensors) for cuts in draws)
        random.append(float(np.mean([accuracy(cut(model, cuts), data) for cuts in draws])))
    assert all(a > b + 0.05 for a, b in zip(small, random)), (small, random)
