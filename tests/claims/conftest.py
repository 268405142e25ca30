"""Small spaces of architectures whose accuracies are known, as NAS-Bench-201 has them on a larger scale."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from assay.plugins import registry
from assay.plugins.contract import Batch, Context, Data, DataSpec, NotAuditable, Split, Subject

OPERATIONS = ("none", "skip", "conv1", "conv3", "pool")
METRICS = ("grad_norm", "snip", "grasp", "fisher", "synflow", "jacob_cov")
ARCHITECTURES, TRAINED_ON, VALIDATED_ON = 64, 1000, 397
SPEC = DataSpec(shape=(1, 8, 8), classes=tuple("0123456789"))


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def operation(name: str, channels: int) -> nn.Module:
    """One of NAS-Bench-201's operations."""
    if name.startswith("conv"):
        size = int(name[-1])
        conv = nn.Conv2d(channels, channels, size, padding=size // 2, bias=False)
        return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(channels))
    return {"none": Nothing(), "skip": nn.Identity(), "pool": nn.AvgPool2d(3, 1, 1)}[name]


class Cell(nn.Module):
    """Three nodes: the second is `first` of the first, the third `direct` of the first plus `second` of the second."""

    def __init__(self, names: tuple[str, ...], channels: int):
        super().__init__()
        self.first, self.direct, self.second = (operation(name, channels) for name in names)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.direct(x) + self.second(self.first(x))
        return out


def network(names: tuple[str, ...], seed: int, channels: int = 8) -> nn.Module:
    """A stem, the cell twice, a linear head."""
    torch.manual_seed(seed)
    stem = (nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
    head = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    return nn.Sequential(*stem, Cell(names, channels), nn.MaxPool2d(2), Cell(names, channels), *head)


def digits() -> Data:
    found = load_digits()
    x, y = (found.images / 16).astype(np.float32)[:, None], found.target
    ends = {"train": (0, TRAINED_ON), "validation": (TRAINED_ON, TRAINED_ON + VALIDATED_ON)}
    return Data(SPEC, {name: Split({"x": x[a:b], "y": y[a:b]}) for name, (a, b) in ends.items()})


def entropy(prediction: Tensor, batch: Batch) -> Tensor:
    return functional.cross_entropy(prediction, batch.y, reduction="none")


def accuracy(model: nn.Module, data: Data) -> float:
    """The validation accuracy after four epochs."""
    everything = data.train.batch(slice(0, None))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(4):
        for index in torch.randperm(TRAINED_ON).split(50):
            optimizer.zero_grad()
            entropy(model(everything.x[index]), everything.take(index)).mean().backward()
            optimizer.step()
    held_out = data.splits["validation"].batch(slice(0, None))
    with torch.no_grad():
        return float((model.eval()(held_out.x).argmax(1) == held_out.y).double().mean())


def scores(model: nn.Module, data: Data, seed: int) -> list[float]:
    """Each metric of the network before its training, NaN where it cannot be asked."""
    given = Subject(
        model=model,
        predict=lambda batch: model(batch.x),
        spec=SPEC,
        data={"main": data},
        loss=entropy,
        trajectory=lambda: iter([("epoch-00000", model)]),
    )
    row = []
    for name in METRICS:
        context = Context(rng=torch.Generator().manual_seed(seed), spec=SPEC)
        try:
            row.append(registry.make("evaluate", f"proxy/{name}").evaluate(given, context).numbers[name].value)
        except NotAuditable:
            row.append(np.nan)
    return row


@dataclass(frozen=True)
class Space:
    """Architectures with their metrics (N, 6), validation accuracies (N,) and numbers of parameters (N,)."""

    names: list[tuple[str, ...]]
    metrics: np.ndarray
    accuracy: np.ndarray
    parameters: np.ndarray

    def metric(self, name: str) -> np.ndarray:
        """One metric (N,); where it cannot be asked it is as low as anywhere."""
        values = self.metrics[:, METRICS.index(name)]
        return np.nan_to_num(values, nan=np.nanmin(values))


def make_space(seed: int) -> Space:
    every = list(itertools.product(OPERATIONS, repeat=3))
    chosen = np.random.default_rng(seed).permutation(len(every))[:ARCHITECTURES]
    names, data = [every[i] for i in chosen], digits()
    models = [network(each, seed) for each in names]
    sizes = [sum(p.numel() for p in model.parameters()) for model in models]
    rows = [scores(model, data, seed) for model in models]
    return Space(names, np.array(rows), np.array([accuracy(m, data) for m in models]), np.array(sizes))


@pytest.fixture(scope="session")
def spaces() -> list[Space]:
    """Three draws of 64 architectures of 125, each with its own weights."""
    return [make_space(seed) for seed in range(3)]
