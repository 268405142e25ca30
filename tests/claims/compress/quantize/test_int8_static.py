"""8 bits after training: accuracy of the integer kernels against float, weights per channel against per tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.compress.quantize.int8_static import Int8Static
from assay.plugins.contract import Context, Data, DataSpec, Record, Split
from assay.tasks.export import export_onnx, session

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


def per_tensor(record: Record) -> Record:
    """The record with one weight scale a layer: its largest channel's."""
    widest = {k: v.max().expand_as(v).clone() for k, v in record.tensors.items() if k.endswith("weight_scale")}
    return Record(record.values, {**record.tensors, **widest})


@pytest.mark.claim
def test_integer_kernels_keep_the_accuracy_and_channels_need_their_own_scales(tmp_path: Path) -> None:
    data = digits()
    test = data.test.batch(slice(0, len(data.test)))
    dense, int8, own, shared = [], [], [], []
    for seed in SEEDS:
        model = trained(data, seed)
        link = Int8Static()
        record = link.fit(model, data, context(data, seed))
        twin = link.apply(model, record)
        export_onnx(twin, data.spec, tmp_path / f"{seed}.onnx")
        kernels = torch.from_numpy(session(tmp_path / f"{seed}.onnx", 1)(test.x.numpy()))
        dense.append(accuracy(model, data))
        int8.append(float((kernels.argmax(1) == test.y).double().mean()))
        with torch.no_grad():
            logits = model(test.x)
            own.append(float((twin(test.x) - logits).abs().mean()))
            shared.append(float((link.apply(model, per_tensor(record))(test.x) - logits).abs().mean()))
    assert all(abs(a - b) <= 0.02 for a, b in zip(dense, int8)), (dense, int8)
    assert all(b > 1.1 * a for a, b in zip(own, shared)), (own, shared)
