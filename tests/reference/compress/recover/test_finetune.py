"""Finetuning: what it asks the lab for, and that the lab's weights come back unchanged."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins.compress.recover.finetune import Finetune
from assay.plugins.contract import Ask, Context, Data, DataSpec, Result, Split, Trained

SPEC = DataSpec(shape=(4,), classes=("a", "b"))


class FakeLab:
    """Answers each ask with the parent whose weights grew by 1."""

    def __init__(self, parent: nn.Module, data: Data):
        self.parent, self.data = parent, data
        self.recipe: Mapping[str, Any] = {}
        self.asked: list[Ask] = []

    def train(self, asks: Sequence[Ask]) -> list[Trained]:
        self.asked += asks
        model = copy.deepcopy(self.parent)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1.0
        return [Trained(model, [{"epoch": 1, "loss": 0.5}], lambda name: model, [], self.data) for _ in asks]

    def new_model(self, seed: int) -> nn.Module:
        raise NotImplementedError

    def evaluate(self, model: nn.Module, evaluator: str | Mapping[str, Any]) -> Result:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("link", "changes"),
    [(Finetune(epochs=3), {"epochs": 3}), (Finetune(epochs=2, lr=0.01), {"epochs": 2, "optimizer.lr": 0.01})],
)
def test_weights_are_the_labs(link: Finetune, changes: dict[str, float]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    before = copy.deepcopy(model.state_dict())
    split = Split({"x": np.zeros((2, 4), dtype=np.float32), "y": np.arange(2)})
    data = Data(SPEC, {"train": split, "test": split})
    lab = FakeLab(model, data)
    record = link.fit(model, data, Context(rng=torch.Generator().manual_seed(0), spec=SPEC), lab=lab)
    assert lab.asked == list(link.asks()) == [Ask(changes=changes, start="parent")]
    new = link.apply(model, record)
    assert record.weights is not None
    new.load_state_dict(dict(record.weights), strict=True)
    grown = {name for name, _ in model.named_parameters()}
    for name, value in new.state_dict().items():
        assert torch.equal(value, before[name] + 1.0 if name in grown else before[name])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
