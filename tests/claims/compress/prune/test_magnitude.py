"""Small weights matter least: magnitude pruning against random pruning, without retraining."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.compress.prune.magnitude import Magnitude
from assay.plugins.contract import Context, Data, DataSpec, Split

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


def steps(model: nn.Module, data: Data, epochs: int, seed: int) -> nn.Module:
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


def randomly_pruned(model: nn.Module, sparsity: float, seed: int) -> nn.Module:
    """The same share of the same layers' weights at zero, drawn at random."""
    new = copy.deepcopy(model)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in new.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight[torch.rand(layer.weight.shape, generator=rng) < sparsity] = 0.0
    return new


@pytest.mark.claim
def test_magnitude_beats_random_at_the_same_sparsity() -> None:
    data = digits()
    found: dict[str, list[float]] = {"dense": [], "global": [], "layer": [], "random": []}
    for seed in SEEDS:
        model = trained(data, seed)
        found["dense"].append(accuracy(model, data))
        found["random"].append(accuracy(randomly_pruned(model, 0.7, seed), data))
        for scope in ("global", "layer"):
            link = Magnitude(sparsity=0.7, scope=scope)
            found[scope].append(accuracy(link.apply(model, link.fit(model, data, context(data, seed))), data))
    for scope in ("global", "layer"):
        assert all(pruned > random + 0.2 for pruned, random in zip(found[scope], found["random"])), found
    assert np.mean(found["global"]) > np.mean(found["layer"]), found
